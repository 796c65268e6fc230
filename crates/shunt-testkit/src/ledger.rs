//! The ledger of numbered events.

use std::{collections::BTreeMap, ops::RangeInclusive};

/// Counts how often each number was seen, to say at the end what was lost and what came twice.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ledger(BTreeMap<u64, u64>);

// === impl Ledger ===

impl Ledger {
    /// Notes a number; returns whether it is new.
    pub fn note(&mut self, number: u64) -> bool {
        let count = self.0.entry(number).or_default();
        *count += 1;
        *count == 1
    }

    /// How many different numbers were seen.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing seen?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers of the range that were not seen.
    pub fn missing(&self, expected: RangeInclusive<u64>) -> Vec<u64> {
        expected.filter(|number| !self.0.contains_key(number)).collect()
    }

    /// How many sightings were one too many.
    pub fn repeated(&self) -> u64 {
        self.0.values().map(|count| count - 1).sum()
    }
}
