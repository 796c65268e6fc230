//! How a ring lies in its file.
//!
//! ```text
//! 0      64 bytes: magic, version, slots, bytes of a slot's frame (all little-endian), zeros
//! 4096   slot 0: 64 bytes of slot header, then the pixels, padded to a multiple of 4096
//! ...    slot 1, ...
//! ```
//!
//! The header is written before the file gets its name and never changes after. A ring with other measures is
//! another file under the same name.

/// Fewest slots of a ring: with one, the newest frame would always be the one being overwritten.
pub const MIN_SLOTS: u32 = 2;
/// Most slots of a ring.
pub const MAX_SLOTS: u32 = 256;
/// Most bytes of a frame: 256 MiB, a picture of 89 megapixels.
pub const MAX_FRAME: usize = 256 << 20;

/// Bytes of the file's header.
pub(crate) const HEADER_LEN: usize = 64;
/// Bytes of a slot's header; pixels begin behind it, on a cache line of their own.
pub(crate) const SLOT_HEADER_LEN: usize = 64;

const MAGIC: [u8; 8] = *b"SHUNTFRM";
/// Of this layout. Any change to it needs another number: old and new containers may run side by side.
const VERSION: u32 = 1;
const PAGE: usize = 4096;

/// The measures of a ring, all inside their bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measures {
    slots: u32,
    max_frame: usize,
}

// === impl Measures ===

impl Measures {
    /// Measures inside their bounds, else nothing.
    pub(crate) fn new(slots: u32, max_frame: usize) -> Option<Self> {
        let sound = (MIN_SLOTS..=MAX_SLOTS).contains(&slots) && (1..=MAX_FRAME).contains(&max_frame);
        sound.then_some(Self { slots, max_frame })
    }

    pub(crate) fn slots(self) -> u32 {
        self.slots
    }

    pub(crate) fn max_frame(self) -> usize {
        self.max_frame
    }

    /// Bytes from one slot to the next.
    fn stride(self) -> usize {
        (SLOT_HEADER_LEN + self.max_frame).next_multiple_of(PAGE)
    }

    /// Where the slot begins; nothing if there is none of this number.
    pub(crate) fn slot_offset(self, slot: u32) -> Option<usize> {
        (slot < self.slots).then(|| PAGE + slot as usize * self.stride())
    }

    /// Bytes of the whole file.
    pub(crate) fn file_len(self) -> usize {
        PAGE + self.slots as usize * self.stride()
    }

    /// The file's header.
    pub(crate) fn header(self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let parts: [&[u8]; 4] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &self.slots.to_le_bytes(),
            &(self.max_frame as u64).to_le_bytes(),
        ];
        for (to, from) in header.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        header
    }

    /// Reads a header back and compares it with the length of its file.
    pub(crate) fn parse(header: &[u8; HEADER_LEN], file_len: u64) -> Result<Self, &'static str> {
        let (magic, rest) = header.split_first_chunk().ok_or("its header is too short")?;
        let (version, rest) = rest.split_first_chunk().ok_or("its header is too short")?;
        let (slots, rest) = rest.split_first_chunk().ok_or("its header is too short")?;
        let (max_frame, _) = rest.split_first_chunk().ok_or("its header is too short")?;
        if *magic != MAGIC {
            return Err("it does not begin with the mark of a ring");
        }
        if u32::from_le_bytes(*version) != VERSION {
            return Err("it was made by another version");
        }
        let max_frame = usize::try_from(u64::from_le_bytes(*max_frame)).unwrap_or(usize::MAX);
        let measures =
            Self::new(u32::from_le_bytes(*slots), max_frame).ok_or("its measures are out of bounds")?;
        if file_len != measures.file_len() as u64 {
            return Err("its length does not fit its measures");
        }
        Ok(measures)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_that_was_written_is_read_back(slots in MIN_SLOTS..=MAX_SLOTS, max_frame in 1..=MAX_FRAME) {
            let measures = Measures::new(slots, max_frame).unwrap();
            let file_len = measures.file_len() as u64;
            prop_assert_eq!(Measures::parse(&measures.header(), file_len), Ok(measures));
            prop_assert!(Measures::parse(&measures.header(), file_len - 1).is_err());
            prop_assert!(Measures::parse(&measures.header(), file_len + 1).is_err());
        }

        #[test]
        fn slots_lie_inside_the_file_and_do_not_touch(slots in MIN_SLOTS..=MAX_SLOTS, max_frame in 1..=MAX_FRAME) {
            let measures = Measures::new(slots, max_frame).unwrap();
            let mut end = HEADER_LEN;
            for slot in 0..slots {
                let offset = measures.slot_offset(slot).unwrap();
                prop_assert!(offset >= end && offset.is_multiple_of(PAGE));
                end = offset + SLOT_HEADER_LEN + max_frame;
            }
            prop_assert!(end <= measures.file_len());
            prop_assert_eq!(measures.slot_offset(slots), None);
        }

        #[test]
        fn any_bytes_are_refused_or_give_measures_in_bounds(
            header in prop::array::uniform32(any::<u8>()),
            keep in 0_usize..24,
            file_len: u64,
        ) {
            // A true header with random bytes from some position on, so that every check is reached.
            let mut bytes = Measures::new(8, 1000).unwrap().header();
            for (to, from) in bytes.iter_mut().zip(header).skip(keep) {
                *to = from;
            }
            if let Ok(measures) = Measures::parse(&bytes, file_len) {
                prop_assert!(measures.file_len() as u64 == file_len);
                prop_assert!(Measures::new(measures.slots, measures.max_frame).is_some());
            }
        }
    }
}
