//! The luma plane of a baseline JPEG file, in one pass.
//!
//! What a grey picture needs of a colour JPEG is one of its three planes. The other two are only read over. Everything
//! here is written so that the compiler makes vectors of it, for WebAssembly as for a native target; it calls nothing
//! that only exists on one of them, so a guest is not far behind native code.
//!
//! Only files of the kind that nearly all are get an answer: 8 bits, Huffman, one scan, grey or YCbCr, luma in full
//! size. [`luma`] answers nothing for all others, and for those that are broken; another decoder has the word then.

/// Bits of a code that are looked up at once.
const FAST: u32 = 10;
/// Zeros behind the bits of a scan, so that whoever reads past its end finds something.
const PADDING: usize = 16;

/// What makes the transform short: each row's and column's part of it stands in the factors. It is the square root of 2
/// times the cosine of that many sixteenths of pi; written out, because targets differ in the last digit of a cosine.
const PART: [f64; 8] = [
    1.0,
    1.387_039_845_322_148,
    1.306_562_964_876_377,
    1.175_875_602_419_359,
    1.0,
    0.785_694_958_387_102,
    0.541_196_100_146_197,
    0.275_899_379_282_943,
];
/// The row and column of each number in the file's order, as row * 8 + column.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];
/// Its place in a block, which is kept column by column: that saves turning it once. Behind the 64 numbers stand 16
/// places for those that lead too far.
const ORDER: [u8; 80] = order();

#[allow(clippy::indexing_slicing, reason = "checked when it is compiled")]
const fn order() -> [u8; 80] {
    let mut order = [63; 80];
    let mut at = 0;
    while at < 64 {
        order[at] = ZIGZAG[at] % 8 * 8 + ZIGZAG[at] / 8;
        at += 1;
    }
    order
}

/// The luma plane.
pub(crate) struct Plane {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) pixels: Vec<u8>,
}

/// A Huffman table.
struct Table {
    /// By the next bits: length of the code in the low 8 bits, its symbol above; 0: the code is longer.
    fast: [u16; 1 << FAST],
    /// By length: one more than the largest code, in 16 bits.
    end: [u32; 18],
    /// By length: what added to a code gives the place of its symbol.
    offset: [i32; 17],
    symbols: [u8; 256],
}

/// A component of the picture.
#[derive(Clone, Copy, Default)]
struct Component {
    id: u8,
    across: usize,
    down: usize,
    quantisation: usize,
    dc: usize,
    ac: usize,
}

/// What stands before the scan.
#[derive(Default)]
struct Head {
    width: usize,
    height: usize,
    components: Vec<Component>,
    /// Already with the factors of [`transform`].
    quantisation: [Option<Box<[f32; 64]>>; 4],
    dc: [Option<Box<Table>>; 4],
    ac: [Option<Box<Table>>; 4],
    /// Units from one restart to the next; 0: there are none.
    restart: usize,
}

/// The bits of a scan, without what is stuffed between them.
struct Scan {
    bytes: Vec<u8>,
    /// Where the stretch behind each restart begins.
    starts: Vec<usize>,
}

/// Where the next bit is.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The luma plane of the file, where it is one of the kind that is known here, and whole.
pub(crate) fn luma(file: &[u8], most: usize) -> Option<Plane> {
    let mut head = Head::default();
    let scan = head.read(file, most)?;
    let scan = Scan::of(scan)?;
    head.decode(&scan)
}

fn pair(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])))
}

// === impl Head ===

impl Head {
    /// Reads up to the scan; what follows its head.
    fn read<'a>(&mut self, file: &'a [u8], most: usize) -> Option<&'a [u8]> {
        let mut left = file.strip_prefix(&[0xff, 0xd8])?;
        loop {
            let [0xff, marker, ..] = *left else { return None };
            if marker == 0xff {
                left = left.get(1..)?;
                continue;
            }
            let length = pair(left, 2)?;
            let segment = left.get(4..2 + length)?;
            left = left.get(2 + length..)?;
            match marker {
                0xc0 | 0xc1 => self.frame(segment, most)?,
                0xc4 => self.tables(segment)?,
                0xdb => self.factors(segment)?,
                0xdd => self.restart = pair(segment, 0)?,
                // Adobe says that the colours are no YCbCr.
                0xee if segment.starts_with(b"Adobe") && segment.get(11) != Some(&1) => return None,
                0xe0..=0xef | 0xfe => {}
                0xda => {
                    self.scan(segment)?;
                    return Some(left);
                }
                _ => return None,
            }
        }
    }

    fn frame(&mut self, segment: &[u8], most: usize) -> Option<()> {
        if !self.components.is_empty() || *segment.first()? != 8 {
            return None;
        }
        (self.height, self.width) = (pair(segment, 1)?, pair(segment, 3)?);
        let count = usize::from(*segment.get(5)?);
        let pixels = self.width.checked_mul(self.height)?;
        if pixels == 0 || pixels > most || !matches!(count, 1 | 3) {
            return None;
        }
        for part in segment.get(6..6 + count * 3)?.as_chunks::<3>().0 {
            let [id, sampling, quantisation] = *part;
            let (across, down) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) {
                return None;
            }
            self.components.push(Component {
                id,
                across,
                down,
                quantisation: quantisation.into(),
                ..Component::default()
            });
        }
        match self.components.as_mut_slice() {
            // Alone, a component has one block a unit, whatever it says.
            [grey] => (grey.across, grey.down) = (1, 1),
            [luma, others @ ..] => {
                let is_largest = others.iter().all(|other| other.across <= luma.across && other.down <= luma.down);
                // Three components of these names are no YCbCr.
                if !is_largest || luma.id == b'R' {
                    return None;
                }
            }
            [] => return None,
        }
        Some(())
    }

    fn tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let [kind, counts @ ..] = segment {
            let counts = counts.first_chunk::<16>()?;
            let all: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let symbols = segment.get(17..17 + all)?;
            let table = Box::new(Table::new(counts, symbols)?);
            let tables = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(kind & 15))? = Some(table);
            segment = segment.get(17 + all..)?;
        }
        Some(())
    }

    fn factors(&mut self, mut segment: &[u8]) -> Option<()> {
        while let [kind, ..] = segment {
            let size = 1 + usize::from(kind >> 4);
            let values = segment.get(1..=64 * size)?;
            let mut table = Box::new([0.0; 64]);
            for (value, place) in values.chunks_exact(size).zip(ORDER) {
                let value = value.iter().fold(0u16, |sum, &byte| (sum << 8) | u16::from(byte));
                let (row, column) = (PART.get(usize::from(place / 8))?, PART.get(usize::from(place % 8))?);
                #[allow(clippy::cast_possible_truncation, reason = "a factor needs no more digits")]
                let factor = (f64::from(value) * row * column / 8.0) as f32;
                *table.get_mut(usize::from(place))? = factor;
            }
            *self.quantisation.get_mut(usize::from(kind & 15))? = Some(table);
            segment = segment.get(1 + 64 * size..)?;
        }
        Some(())
    }

    fn scan(&mut self, segment: &[u8]) -> Option<()> {
        let count = usize::from(*segment.first()?);
        if count != self.components.len() || count == 0 {
            return None;
        }
        let parts = segment.get(1..1 + count * 2)?.as_chunks::<2>().0;
        for (component, &[id, tables]) in self.components.iter_mut().zip(parts) {
            if component.id != id {
                return None;
            }
            (component.dc, component.ac) = (usize::from(tables >> 4), usize::from(tables & 15));
        }
        Some(())
    }

    fn decode(&self, scan: &Scan) -> Option<Plane> {
        let (luma, others) = self.components.split_first()?;
        let factors = self.quantisation.get(luma.quantisation)?.as_deref()?;
        let tables = |component: &Component| {
            Some((self.dc.get(component.dc)?.as_deref()?, self.ac.get(component.ac)?.as_deref()?))
        };
        let (luma_dc, luma_ac) = tables(luma)?;
        let mut skipped = Vec::new();
        for other in others {
            let (dc, ac) = tables(other)?;
            skipped.push((other.across * other.down, dc, ac));
        }
        let mut pixels = vec![0; self.width * self.height];
        let units_across = self.width.div_ceil(8 * luma.across);
        let units_down = self.height.div_ceil(8 * luma.down);
        let mut starts = scan.starts.iter();
        let mut bits = Bits { bytes: &scan.bytes, at: 0 };
        let (mut until_restart, mut level) = (0, 0i32);
        for unit in 0..units_across * units_down {
            if until_restart == 0 {
                bits.at = starts.next()? * 8;
                level = 0;
                until_restart = if self.restart == 0 { usize::MAX } else { self.restart };
            }
            until_restart -= 1;
            let (left, top) = (unit % units_across * 8 * luma.across, unit / units_across * 8 * luma.down);
            for down in 0..luma.down {
                for across in 0..luma.across {
                    let mut block = [0.0; 64];
                    let is_flat = bits.block(luma_dc, luma_ac, factors, &mut level, &mut block)?;
                    let rows = if is_flat { [[grey(block[0]); 8]; 8] } else { transform(&block) };
                    put(&mut pixels, self.width, left + across * 8, top + down * 8, &rows);
                }
            }
            for &(blocks, dc, ac) in &skipped {
                for _ in 0..blocks {
                    bits.skip(dc, ac)?;
                }
            }
        }
        // Who read past the end read zeros that are not in the file.
        if bits.at > (scan.bytes.len() - PADDING) * 8 {
            return None;
        }
        let (width, height) = (u32::try_from(self.width).ok()?, u32::try_from(self.height).ok()?);
        Some(Plane { width, height, pixels })
    }
}

// === impl Table ===

impl Table {
    fn new(counts: &[u8; 16], given: &[u8]) -> Option<Self> {
        let mut table = Self { fast: [0; 1 << FAST], end: [0; 18], offset: [0; 17], symbols: [0; 256] };
        table.symbols.get_mut(..given.len())?.copy_from_slice(given);
        let (mut code, mut place) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            let count = usize::from(count);
            *table.offset.get_mut(length as usize)? = i32::try_from(place).ok()? - i32::try_from(code).ok()?;
            for &symbol in given.get(place..place + count)? {
                if code >> length != 0 {
                    return None;
                }
                if length <= FAST {
                    let begin = (code << (FAST - length)) as usize;
                    let entries = table.fast.get_mut(begin..begin + (1 << (FAST - length)))?;
                    entries.fill(u16::from(symbol) << 8 | u16::try_from(length).ok()?);
                }
                code += 1;
            }
            place += count;
            *table.end.get_mut(length as usize)? = code << (16 - length);
            code <<= 1;
        }
        table.end[17] = u32::MAX;
        Some(table)
    }

    /// The next symbol, and the length of its code.
    #[inline(always)]
    fn next(&self, bits: u64) -> Option<(u8, u32)> {
        let entry = *self.fast.get((bits >> (64 - FAST)) as usize)?;
        if entry != 0 {
            let [length, symbol] = entry.to_le_bytes();
            return Some((symbol, length.into()));
        }
        self.long(bits)
    }

    #[cold]
    fn long(&self, bits: u64) -> Option<(u8, u32)> {
        let code = (bits >> 48) as u32;
        let length = (FAST + 1..=16).find(|&length| self.end.get(length as usize).is_some_and(|&end| code < end))?;
        let place = i32::try_from(code >> (16 - length)).ok()? + self.offset.get(length as usize)?;
        Some((*self.symbols.get(usize::try_from(place).ok()?)?, length))
    }
}

// === impl Scan ===

impl Scan {
    /// Takes out what is stuffed, and notes the restarts.
    fn of(mut left: &[u8]) -> Option<Self> {
        let mut scan = Self { bytes: Vec::with_capacity(left.len() + PADDING), starts: vec![0] };
        loop {
            // A file that ends without a marker is cut short.
            let end = left.iter().position(|&byte| byte == 0xff)?;
            let (plain, behind) = left.split_at(end);
            scan.bytes.extend_from_slice(plain);
            match *behind.get(1)? {
                0 => scan.bytes.push(0xff),
                0xd0..=0xd7 => scan.starts.push(scan.bytes.len()),
                0xff => {
                    left = behind.get(1..)?;
                    continue;
                }
                0xd9 => break,
                // Another scan, or whatever it is.
                _ => return None,
            }
            left = behind.get(2..)?;
        }
        scan.bytes.extend_from_slice(&[0; PADDING]);
        Some(scan)
    }
}

// === impl Bits ===

impl Bits<'_> {
    /// At least the next 57 bits, from the top.
    #[inline(always)]
    fn peek(&self) -> u64 {
        let next = self.bytes.get(self.at >> 3..).and_then(|bytes| bytes.first_chunk::<8>());
        u64::from_be_bytes(next.copied().unwrap_or_default()) << (self.at & 7)
    }

    /// Reads a block, each number times its factor; is there nothing in it but its level?
    #[inline(always)]
    fn block(
        &mut self,
        dc: &Table,
        ac: &Table,
        factors: &[f32; 64],
        level: &mut i32,
        block: &mut [f32; 64],
    ) -> Option<bool> {
        let bits = self.peek();
        let (size, length) = dc.next(bits)?;
        if size > 11 {
            return None;
        }
        *level = level.wrapping_add(signed(bits << length, size.into()));
        self.at += (length + u32::from(size)) as usize;
        block[0] = number(*level) * factors[0];
        let mut place = 1;
        while place < 64 {
            let bits = self.peek();
            let (symbol, length) = ac.next(bits)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 {
                self.at += length as usize;
                if run < 15 {
                    break;
                }
                place += 16;
                continue;
            }
            place += run;
            let value = signed(bits << length, size);
            self.at += (length + size) as usize;
            let natural = usize::from(ORDER.get(place).copied()? & 63);
            block[natural] = number(value) * factors[natural];
            place += 1;
        }
        Some(place == 1)
    }

    /// Reads over a block.
    #[inline(always)]
    fn skip(&mut self, dc: &Table, ac: &Table) -> Option<()> {
        let (size, length) = dc.next(self.peek())?;
        self.at += (length + u32::from(size)) as usize;
        let mut place = 1;
        while place < 64 {
            let (symbol, length) = ac.next(self.peek())?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            self.at += (length + size) as usize;
            if size == 0 && run < 15 {
                break;
            }
            place += run + 1;
        }
        Some(())
    }
}

/// The number that the first `size` bits stand for: half of the numbers of a size are negative.
#[inline(always)]
fn signed(bits: u64, size: u32) -> i32 {
    if size == 0 {
        return 0;
    }
    #[allow(clippy::cast_possible_truncation, reason = "at most 15 bits")]
    let value = (bits >> (64 - size)) as i32;
    // The first bit is 0 for those below 0.
    #[allow(clippy::cast_possible_wrap, reason = "a bit")]
    let below = (bits >> 63) as i32 - 1;
    value + (below & (1 - (1 << size)))
}

#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "what is larger comes from a broken file")]
fn number(value: i32) -> f32 {
    value as f32
}

/// The brightness of what the transform gives.
#[inline(always)]
fn grey(value: f32) -> u8 {
    // Added to this, a float's last bits are the nearest whole number.
    const WHOLE: f32 = 12_582_912.0;
    #[allow(clippy::cast_possible_wrap, reason = "bits")]
    let whole = (value + WHOLE).to_bits() as i32 - 0x4b40_0000 + 128;
    whole.clamp(0, 255).to_le_bytes()[0]
}

type Row = [f32; 8];

#[inline(always)]
fn each(one: Row, other: Row, of: impl Fn(f32, f32) -> f32) -> Row {
    let mut row = one;
    for (value, other) in row.iter_mut().zip(other) {
        *value = of(*value, other);
    }
    row
}

#[inline(always)]
fn add(one: Row, other: Row) -> Row {
    each(one, other, |one, other| one + other)
}

#[inline(always)]
fn sub(one: Row, other: Row) -> Row {
    each(one, other, |one, other| one - other)
}

#[inline(always)]
fn times(row: Row, factor: f32) -> Row {
    row.map(|value| value * factor)
}

/// One dimension of the inverse cosine transform of Arai, Agui and Nakajima, for eight columns at a time.
#[inline(always)]
fn columns([r0, r1, r2, r3, r4, r5, r6, r7]: [Row; 8]) -> [Row; 8] {
    let (sum, difference) = (add(r0, r4), sub(r0, r4));
    let both = add(r2, r6);
    let turned = sub(times(sub(r2, r6), std::f32::consts::SQRT_2), both);
    let (e0, e3, e1, e2) = (add(sum, both), sub(sum, both), add(difference, turned), sub(difference, turned));
    let (z13, z10, z11, z12) = (add(r5, r3), sub(r5, r3), add(r1, r7), sub(r1, r7));
    let o7 = add(z11, z13);
    let z5 = times(add(z10, z12), 1.847_759_1);
    let o6 = sub(sub(z5, times(z10, 2.613_126)), o7);
    let o5 = sub(times(sub(z11, z13), std::f32::consts::SQRT_2), o6);
    let o4 = sub(sub(z5, times(z12, 1.082_392_2)), o5);
    [add(e0, o7), add(e1, o6), add(e2, o5), add(e3, o4), sub(e3, o4), sub(e2, o5), sub(e1, o6), sub(e0, o7)]
}

#[inline(always)]
#[allow(clippy::indexing_slicing, reason = "both are below 8")]
fn transposed(rows: [Row; 8]) -> [Row; 8] {
    let mut made = [[0.0; 8]; 8];
    for (place, made) in made.iter_mut().enumerate() {
        for (row, value) in rows.iter().zip(made) {
            *value = row[place];
        }
    }
    made
}

/// The pixels of a block.
#[inline(always)]
fn transform(block: &[f32; 64]) -> [[u8; 8]; 8] {
    let mut rows = [[0.0; 8]; 8];
    for (row, values) in rows.iter_mut().zip(block.as_chunks::<8>().0) {
        *row = *values;
    }
    columns(transposed(columns(rows))).map(|row| row.map(grey))
}

/// Puts the block's pixels where they belong, as far as they are in the picture.
#[inline(always)]
fn put(pixels: &mut [u8], width: usize, left: usize, top: usize, rows: &[[u8; 8]; 8]) {
    let inside = width.saturating_sub(left).min(8);
    for (row, values) in (top..).zip(rows) {
        let begin = row * width + left;
        if let Some(place) = pixels.get_mut(begin..begin + inside) {
            if let Some(place) = place.first_chunk_mut::<8>() {
                *place = *values;
            } else {
                for (place, value) in place.iter_mut().zip(values) {
                    *place = *value;
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn pictures() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/models/images");
        let Ok(folder) = std::fs::read_dir(folder) else {
            println!("passed over: there are no pictures");
            return Vec::new();
        };
        let files = folder.map(|file| file.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|it| it == "jpg")).map(|file| std::fs::read(file).unwrap()).collect()
    }

    #[test]
    fn the_luma_plane_is_that_of_another_decoder() {
        for file in pictures() {
            let ours = luma(&file, usize::MAX).expect("a baseline file");
            let theirs = crate::decoded(&file, true).unwrap();
            assert_eq!((ours.width, ours.height), (theirs.width, theirs.height));
            let most = ours.pixels.iter().zip(&theirs.pixels).map(|(&one, &other)| one.abs_diff(other)).max();
            assert!(most.unwrap() <= 2, "{most:?}");
        }
    }

    #[test]
    fn broken_files_are_answered_or_left_to_others() {
        let mut random = 1u64;
        for file in pictures() {
            for _ in 0..20 {
                let mut broken = file.clone();
                for _ in 0..4 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = (random >> 33) as usize % broken.len();
                    broken[at] = (random >> 24) as u8;
                    let at = at % 1000;
                    broken[at] ^= 1 << (random >> 60 & 7);
                }
                luma(&broken, 2_000_000);
                broken.truncate((random >> 33) as usize % file.len());
                luma(&broken, 2_000_000);
            }
        }
    }
}
