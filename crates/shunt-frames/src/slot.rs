//! One slot of a mapped ring: the only place with unsafe code.
//!
//! A slot is a seqlock. Its header holds a lock number, odd while the writer works in the slot, and the
//! generation, measures and format of the frame. All header fields are 32-bit atomics: they work on read-only
//! mappings of all our machines, 32-bit ones included.
#![expect(unsafe_code, reason = "memory shared with other processes is reached by raw pointers only")]

use std::sync::atomic::{AtomicU32, Ordering, fence};

use memmap2::MmapRaw;
use shunt_wire::events::PixelFormat;

use crate::{
    FrameError, PixelBuffer, frame_len,
    layout::{Measures, SLOT_HEADER_LEN},
};

/// The header fields, by their position among the 32-bit words of the slot.
#[derive(Debug, Clone, Copy)]
enum Field {
    Lock = 0,
    GenerationLow = 1,
    GenerationHigh = 2,
    Width = 3,
    Height = 4,
    Format = 5,
}

/// What a slot's header says about its frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameHeader {
    pub(crate) generation: u64,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) format: PixelFormat,
}

/// A slot that lies wholly inside a living mapping.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    map: &'a MmapRaw,
    /// A multiple of the page size; `offset + SLOT_HEADER_LEN + max_frame <= map.len()`.
    offset: usize,
    max_frame: usize,
}

// === impl Slot ===

impl<'a> Slot<'a> {
    /// The slot of that number; nothing if the ring has none, or if the mapping is too short for it.
    pub(crate) fn new(map: &'a MmapRaw, measures: Measures, slot: u32) -> Option<Self> {
        let offset = measures.slot_offset(slot)?;
        let max_frame = measures.max_frame();
        (offset + SLOT_HEADER_LEN + max_frame <= map.len()).then_some(Self { map, offset, max_frame })
    }

    #[expect(clippy::cast_ptr_alignment, reason = "a slot begins on a page")]
    fn field(&self, field: Field) -> &AtomicU32 {
        // SAFETY: by the rule of `offset` the word lies inside the mapping, which outlives the reference. It is
        // aligned: the mapping begins on a page and so does the slot. Everybody uses these words as atomics
        // only. On a read-only mapping only loads are made: `write` is called by the writer alone, whose mapping
        // is writable.
        unsafe {
            AtomicU32::from_ptr(self.map.as_mut_ptr().add(self.offset).cast::<u32>().add(field as usize))
        }
    }

    fn load(&self, field: Field) -> u32 {
        self.field(field).load(Ordering::Relaxed)
    }

    fn store(&self, field: Field, value: u32) {
        self.field(field).store(value, Ordering::Relaxed);
    }

    /// The generation that the slot names, sound or not: for a writer that takes the ring over.
    pub(crate) fn generation(&self) -> u64 {
        u64::from(self.load(Field::GenerationHigh)) << 32 | u64::from(self.load(Field::GenerationLow))
    }

    /// Writes a frame. For the one writer of the ring, on its writable mapping. The caller has checked that the
    /// frame fits.
    ///
    /// If `fill` panics or the process dies in it, the slot stays locked, and no reader takes what is in it.
    pub(crate) fn write(&mut self, frame: FrameHeader, fill: impl FnOnce(&mut [u8])) {
        let len = frame_len(frame.width, frame.height, frame.format).min(self.max_frame);
        // The next odd number, also after a writer that died here and left an odd one.
        let lock = self.load(Field::Lock).wrapping_add(1) | 1;
        self.store(Field::Lock, lock);
        // Nothing of the new frame may be seen before the lock.
        fence(Ordering::Release);
        self.store(Field::GenerationLow, frame.generation as u32);
        self.store(Field::GenerationHigh, (frame.generation >> 32) as u32);
        self.store(Field::Width, frame.width);
        self.store(Field::Height, frame.height);
        self.store(Field::Format, frame.format.bytes_per_pixel() as u32);
        // SAFETY: `offset + SLOT_HEADER_LEN + len` is inside the writable mapping. In this process nobody else
        // reaches these bytes by this mapping: `&mut self` holds the only writer's slot, and readers map the
        // file for themselves, read-only. What they copy meanwhile they throw away.
        let pixels = unsafe {
            std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.offset + SLOT_HEADER_LEN), len)
        };
        fill(pixels);
        // All of the new frame is seen before the lock opens.
        self.field(Field::Lock).store(lock.wrapping_add(1), Ordering::Release);
    }

    /// Copies the frame of this generation out; [`FrameError::Gone`] if it is not, or no longer, there.
    pub(crate) fn read(&self, generation: u64, buffer: &mut PixelBuffer) -> Result<(), FrameError> {
        let lock = self.field(Field::Lock).load(Ordering::Acquire);
        if lock & 1 == 1 || self.generation() != generation {
            return Err(FrameError::Gone);
        }
        let (width, height) = (self.load(Field::Width), self.load(Field::Height));
        let format = match self.load(Field::Format) {
            1 => PixelFormat::Grey8,
            3 => PixelFormat::Rgb8,
            // Never written: the header changes under us.
            _ => return Err(FrameError::Gone),
        };
        let len = frame_len(width, height, format);
        if len > self.max_frame {
            return Err(FrameError::Gone);
        }
        buffer.pixels.clear();
        buffer.pixels.reserve(len);
        // SAFETY: the source lies inside the mapping because `len <= max_frame`; the target has room for `len`
        // bytes; they cannot overlap. The writer may change the source meanwhile: it does so in another mapping,
        // so to this program it is memory that the outside changes, any bytes are valid `u8`, and they are only
        // kept if the lock did not move.
        unsafe {
            let from = self.map.as_ptr().add(self.offset + SLOT_HEADER_LEN);
            std::ptr::copy_nonoverlapping(from, buffer.pixels.as_mut_ptr(), len);
            buffer.pixels.set_len(len);
        }
        // The copy is done before the lock is looked at again.
        fence(Ordering::Acquire);
        if self.load(Field::Lock) != lock {
            return Err(FrameError::Gone);
        }
        (buffer.width, buffer.height, buffer.format) = (width, height, format);
        Ok(())
    }
}
