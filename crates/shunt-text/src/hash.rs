//! FNV-1a with 64 bits, piece by piece: a pair of words goes on where its first word ended.

/// A hash on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hash(u64);

// === impl Hash ===

impl Hash {
    pub(crate) const START: Self = Self(0xcbf2_9ce4_8422_2325);

    /// The hash of what was there and these bytes.
    pub(crate) fn then(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// Its bucket of so many; a power of two.
    pub(crate) fn bucket(self, buckets: usize) -> u32 {
        (self.0 & (buckets as u64 - 1)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        // The test vectors of the hash's authors.
        assert_eq!(Hash::START.then(b"a").0, 0xaf63_dc4c_8601_ec8c);
        assert_eq!(Hash::START.then(b"foobar").0, 0x8594_4171_f739_67e8);
        assert_eq!(Hash::START.then(b"foo").then(b"bar").0, 0x8594_4171_f739_67e8);
    }
}
