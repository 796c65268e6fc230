//! What a window keeps instead of its events: bounded, and put together from parts.

use serde::{Deserialize, Serialize};

use crate::bits;

/// Most buckets of a [`Percentiles`].
const BUCKETS: usize = 512;
/// The ratio of neighbouring bucket bounds: with it a percentile is right within 2 %.
const RATIO: f64 = 1.02 / 0.98;
/// Hashes that a [`Distinct`] keeps: up to so many different values it is exact.
const HASHES: usize = 512;

/// Percentiles within 2 % of the value, from a histogram whose buckets grow by a ratio (`DDSketch`: Masson, Rim and Lee,
/// 2019). Where there are more than 512 buckets, those of the values nearest to zero are put together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// By bucket: that of a negative value is negative, that of zero is 0.
    buckets: Vec<(i32, u64)>,
    count: u64,
}

/// How many different values there are: exact up to 512, then within about 5 %, from the 512 least hashes (Bar-Yossef
/// and others, 2002).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Distinct {
    /// The least, in order.
    least: Vec<u64>,
    /// Was one left out?
    full: bool,
}

/// Where the values of a window are heading: least squares, in a form that parts of it can be put together (Chan,
/// Golub and `LeVeque`, 1979).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Trend {
    count: u64,
    #[serde(with = "bits")]
    mean_time: f64,
    #[serde(with = "bits")]
    mean_value: f64,
    #[serde(with = "bits")]
    time_value: f64,
    #[serde(with = "bits")]
    time_time: f64,
}

// === impl Percentiles ===

impl Percentiles {
    /// Bytes at most.
    pub(crate) const BYTES: usize = (BUCKETS + 1) * 16;

    pub(crate) fn add(&mut self, value: f64) {
        self.add_bucket(bucket(value), 1);
    }

    fn add_bucket(&mut self, bucket: i32, count: u64) {
        self.count += count;
        match self.buckets.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(place) => {
                if let Some((_, known)) = self.buckets.get_mut(place) {
                    *known += count;
                }
            }
            Err(place) => {
                make_room(&mut self.buckets, BUCKETS + 1);
                self.buckets.insert(place, (bucket, count));
                if self.buckets.len() > BUCKETS {
                    self.collapse();
                }
            }
        }
    }

    /// Puts the two buckets nearest to zero together.
    fn collapse(&mut self) {
        let nearest = self.buckets.iter().enumerate().min_by_key(|(_, (bucket, _))| bucket.unsigned_abs());
        let Some((place, &(bucket, count))) = nearest else { return };
        self.buckets.remove(place);
        // What was above it is now in its place.
        let beside =
            match (self.buckets.get(place), place.checked_sub(1).and_then(|before| self.buckets.get(before)))
            {
                (Some((above, _)), Some((below, _))) => {
                    if above.abs_diff(bucket) <= below.abs_diff(bucket) {
                        place
                    } else {
                        place - 1
                    }
                }
                (Some(_), None) => place,
                (None, _) => place.saturating_sub(1),
            };
        if let Some((_, known)) = self.buckets.get_mut(beside) {
            *known += count;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for &(bucket, count) in &other.buckets {
            self.add_bucket(bucket, count);
        }
    }

    /// The value that so many percent are not above; nothing where there is none.
    pub(crate) fn at(&self, percent: f64) -> Option<f64> {
        let rank = (percent / 100.0 * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for &(bucket, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                return Some(middle(bucket));
            }
        }
        None
    }
}

/// Room for one more: twice as much as there is, but never for more than so many.
fn make_room<T>(list: &mut Vec<T>, most: usize) {
    if list.len() == list.capacity() {
        let room = (2 * list.len()).clamp(4, most.max(list.len() + 1));
        list.reserve_exact(room - list.len());
    }
}

/// The bucket of a value: 0 for what is nearer to zero than 1e-9.
fn bucket(value: f64) -> i32 {
    const LEAST: f64 = 1e-9;
    let size = value.abs();
    if size < LEAST || value.is_nan() {
        return 0;
    }
    let number = ((size.min(1e300) / LEAST).ln() / RATIO.ln()).floor() as i32 + 1;
    if value < 0.0 { -number } else { number }
}

/// The value in the middle of a bucket, in the sense of ratios.
fn middle(bucket: i32) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let size = 1e-9 * (RATIO.ln() * (f64::from(bucket.unsigned_abs()) - 0.5)).exp();
    if bucket < 0 { -size } else { size }
}

// === impl Distinct ===

impl Distinct {
    /// Bytes at most.
    pub(crate) const BYTES: usize = (HASHES + 1) * 8;

    pub(crate) fn add(&mut self, hash: u64) {
        if self.full && self.least.last().is_some_and(|last| hash > *last) {
            return;
        }
        if let Err(place) = self.least.binary_search(&hash) {
            make_room(&mut self.least, HASHES + 1);
            self.least.insert(place, hash);
            if self.least.len() > HASHES {
                self.least.pop();
                self.full = true;
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.full |= other.full;
        for &hash in &other.least {
            self.add(hash);
        }
        self.full |= self.least.len() > HASHES;
    }

    pub(crate) fn count(&self) -> f64 {
        match self.least.last() {
            Some(&last) if self.full && last > 0 => {
                ((HASHES - 1) as f64 * (u64::MAX as f64 / last as f64)).round()
            }
            _ => self.least.len() as f64,
        }
    }
}

/// A hash that is the same on every machine and after every restart (FNV-1a, then the finish of `SplitMix64`).
pub(crate) fn hash(text: &[u8]) -> u64 {
    let mut hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

// === impl Trend ===

impl Trend {
    /// One value at this time, in seconds.
    pub(crate) fn add(&mut self, time: f64, value: f64) {
        self.merge(&Self { count: 1, mean_time: time, mean_value: value, time_value: 0.0, time_time: 0.0 });
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let (one, two) = (self.count as f64, other.count as f64);
        if other.count == 0 {
            return;
        }
        let all = one + two;
        let (time, value) = (other.mean_time - self.mean_time, other.mean_value - self.mean_value);
        *self = if self.count == 0 {
            *other
        } else {
            Self {
                count: self.count + other.count,
                mean_time: self.mean_time + time * two / all,
                mean_value: self.mean_value + value * two / all,
                time_value: self.time_value + other.time_value + time * value * one * two / all,
                time_time: self.time_time + other.time_time + time * time * one * two / all,
            }
        };
    }

    /// The change in a second; nothing where all values are of one time.
    pub(crate) fn per_second(&self) -> Option<f64> {
        (self.time_time > 1e-9).then(|| self.time_value / self.time_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_two_percent() {
        let mut sketch = Percentiles::default();
        let (mut one, mut two) = (Percentiles::default(), Percentiles::default());
        for number in 1..=10_000_u32 {
            sketch.add(f64::from(number));
            if number % 3 == 0 { &mut one } else { &mut two }.add(f64::from(number));
        }
        one.merge(&two);
        assert_eq!(one, sketch);
        for percent in [1.0, 50.0, 95.0, 99.0, 100.0] {
            let (found, exact) = (sketch.at(percent).unwrap(), percent * 100.0);
            assert!((found - exact).abs() <= exact * 0.021, "{percent}: {found}");
        }
        assert_eq!(Percentiles::default().at(50.0), None);
        let mut mixed = Percentiles::default();
        [-5.0, 0.0, 0.0, 5.0].into_iter().for_each(|value| mixed.add(value));
        assert_eq!(mixed.at(50.0), Some(0.0));
        assert!((mixed.at(1.0).unwrap() + 5.0).abs() < 0.11);
    }

    #[test]
    fn percentiles_of_any_values_stay_small() {
        let mut sketch = Percentiles::default();
        for number in 0..100_000 {
            sketch.add((f64::from(number) * 0.001).exp() - 1e20);
            sketch.add((f64::from(number) * 0.001).exp());
        }
        assert!(sketch.buckets.len() <= BUCKETS);
        assert_eq!(sketch.count, 200_000);
        let largest = (99_999.0_f64 * 0.001).exp();
        assert!((sketch.at(100.0).unwrap() / largest - 1.0).abs() < 0.021);
    }

    #[test]
    fn different_values_are_counted_exactly_while_they_are_few_and_nearly_when_they_are_many() {
        let mut few = Distinct::default();
        for number in 0..5_000 {
            few.add(hash(format!("value {}", number % 512).as_bytes()));
        }
        assert_eq!(few.count(), 512.0);
        let (mut one, mut two) = (Distinct::default(), Distinct::default());
        for number in 0..100_000 {
            if number % 2 == 0 { &mut one } else { &mut two }.add(hash(format!("value {number}").as_bytes()));
        }
        one.merge(&two);
        assert!((one.count() / 100_000.0 - 1.0).abs() < 0.15, "{}", one.count());
        assert!(one.least.len() <= HASHES);
    }

    #[test]
    fn a_trend_is_the_slope_of_the_line() {
        let (mut one, mut two) = (Trend::default(), Trend::default());
        for second in 0..100 {
            let part = if second < 40 { &mut one } else { &mut two };
            part.add(1.8e9 + f64::from(second), 5.0 - 0.25 * f64::from(second));
        }
        one.merge(&two);
        assert!((one.per_second().unwrap() + 0.25).abs() < 1e-9);
        assert_eq!(Trend::default().per_second(), None);
    }
}
