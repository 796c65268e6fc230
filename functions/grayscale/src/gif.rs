//! GIF: a picture's colours stand in tables, its pixels are places in them. So the tables become grey, and everything
//! else stays as it is: pixels, all pictures of an animation, their times, what is transparent.

use picture::luma;

/// What can be read one piece after the other.
struct Pieces<'a> {
    file: &'a mut [u8],
    at: usize,
}

/// Makes the colour tables of the file grey.
pub(crate) fn grey(file: &[u8]) -> Result<Vec<u8>, String> {
    let mut copy = file.to_vec();
    let mut pieces = Pieces { file: &mut copy, at: 0 };
    let head = pieces.take(13)?;
    let flags = head.get(10).copied().unwrap_or_default();
    pieces.table(flags)?;
    let mut pictures = 0;
    loop {
        // Many programs read a file that ends without its last byte, and so do we, if it has a picture.
        match pieces.take(1).ok().and_then(|kind| kind.first().copied()) {
            Some(0x21) => {
                pieces.take(1)?;
                pieces.blocks()?;
            }
            Some(0x2c) => {
                let head = pieces.take(9)?;
                let flags = head.get(8).copied().unwrap_or_default();
                pieces.table(flags)?;
                pieces.take(1)?;
                pieces.blocks()?;
                pictures += 1;
            }
            Some(0x3b) | None if pictures > 0 => return Ok(copy),
            Some(0x3b) | None => return Err("the GIF file has no picture".to_owned()),
            Some(other) => return Err(format!("the GIF file has a block of the unknown kind {other}")),
        }
    }
}

// === impl Pieces ===

impl Pieces<'_> {
    fn take(&mut self, length: usize) -> Result<&mut [u8], String> {
        let end = self.at.saturating_add(length);
        let piece = self.file.get_mut(self.at..end).ok_or("the GIF file is cut short")?;
        self.at = end;
        Ok(piece)
    }

    /// The colour table that the flags tell of, if they do.
    fn table(&mut self, flags: u8) -> Result<(), String> {
        if flags & 0x80 == 0 {
            return Ok(());
        }
        let colours = 2usize << (flags & 0x07);
        for colour in self.take(colours * 3)?.as_chunks_mut::<3>().0 {
            let [red, green, blue] = *colour;
            *colour = [luma(red, green, blue); 3];
        }
        Ok(())
    }

    /// Blocks, each behind its length, until one that is empty.
    fn blocks(&mut self) -> Result<(), String> {
        loop {
            let length = self.take(1)?.first().copied().unwrap_or_default();
            if length == 0 {
                return Ok(());
            }
            self.take(length.into())?;
        }
    }
}
