//! Files that were something once: bytes changed, cut out, doubled. Whatever they are now, they are refused or end
//! within their limits, and the host lives. `SHUNT_FUZZ_CASES` makes more of them than each test run has time for.

use super::*;

/// Files damaged in a test run.
const CASES: u64 = 150;

/// What is damaged: a component, one of wasi:http, a program of preview 1, one of them as small as can be.
const SEEDS: [&[u8]; 4] = [
    UNRULY_HTTP,
    UNRULY_PROGRAM,
    include_bytes!("../../../../../functions/builds/echo.wasm"),
    include_bytes!("../../../../../functions/builds/wordcount.wasm"),
];

/// Numbers that look drawn by chance, the same for the same seed (xorshift, Marsaglia 2003).
struct Chance(u64);

// === impl Chance ===

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// One to eight places changed, or a piece cut out, doubled or moved.
    fn damage(&mut self, file: &[u8]) -> Vec<u8> {
        let mut file = file.to_vec();
        let begin = self.below(file.len());
        let end = (begin + 1 + self.below(64)).min(file.len());
        match self.below(6) {
            0 => drop(file.drain(begin..end)),
            1 => {
                let piece = file[begin..end].to_vec();
                let at = self.below(file.len());
                file.splice(at..at, piece);
            }
            2 => file.truncate(begin),
            _ => {
                for _ in 0..=self.below(8) {
                    let at = self.below(file.len());
                    file[at] = self.below(256) as u8;
                }
            }
        }
        file
    }
}

#[tokio::test]
async fn damaged_files_are_refused_or_end_within_their_limits() {
    let cases = std::env::var("SHUNT_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let limits = Limits { time_ms: 50, ..LIMITS };
    let (mut refused, mut called) = (0, 0);
    for case in 0..cases {
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ (case + 1));
        for _ in 0..8 {
            chance.below(2);
        }
        let seed = SEEDS[chance.below(SEEDS.len())];
        match yard.install(&chance.damage(seed)) {
            Ok(guest) => {
                // An answer, a refusal or a failure: all are right, as long as it ends.
                drop(yard.call(&guest, "0,1,1", limits).await);
                called += 1;
            }
            Err(refusal) => {
                assert!(refusal.to_string().len() < 2000, "case {case}: {refusal}");
                refused += 1;
            }
        }
    }
    yard.lives(&unruly).await;
    // Else the damage is too great, or too small, to try anything.
    assert!(refused > 0 && called > 0, "{refused} refused, {called} called");
}
