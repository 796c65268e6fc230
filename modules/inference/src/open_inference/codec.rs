//! How messages of gRPC are read: what would grow far beyond its bytes is refused before room is made for it.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Most inputs, wished outputs, raw contents and parameters of a request, together. An empty one has two bytes on the
/// wire and hundreds in memory.
const PARTS: usize = 256;
/// The fields of `ModelInferRequest` that may be there more than once: parameters, inputs, outputs, raw contents.
const REPEATED: std::ops::RangeInclusive<u64> = 4..=7;
/// `ModelInferRequest.inputs`, and the parameters of one.
const INPUTS: (u64, u64) = (5, 4);
/// `ModelInferRequest.outputs`, and the parameters of one.
const OUTPUTS: (u64, u64) = (6, 2);

/// Prost's codec behind [`check`].
#[derive(Debug, Clone)]
pub(super) struct BoundedCodec<T, U>(PhantomData<(T, U)>);

/// Prost's decoder behind [`check`].
#[derive(Debug, Default)]
pub(super) struct BoundedDecoder<U>(ProstDecoder<U>);

/// A message's fields, one after the other; only those that have a length have content.
struct Fields<'a>(&'a [u8]);

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Broken;

// === impl BoundedCodec ===

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

// === impl BoundedDecoder ===

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        use bytes::Buf as _;

        // The other messages have none of these fields more than once. A message lies in one piece.
        check(buffer.chunk()).map_err(Status::invalid_argument)?;
        self.0.decode(buffer)
    }
}

/// Does the message of a request have no more parts than may be?
fn check(message: &[u8]) -> Result<(), String> {
    let broken = |_: Broken| "the request is no such message".to_owned();
    let mut parts = 0_usize;
    let mut count = || {
        parts += 1;
        if parts > PARTS {
            return Err(format!(
                "the request has more than {PARTS} inputs, outputs, raw_input_contents and parameters together"
            ));
        }
        Ok(())
    };
    for field in Fields(message) {
        let (number, content) = field.map_err(broken)?;
        let Some(content) = content.filter(|_| REPEATED.contains(&number)) else { continue };
        count()?;
        for (_, parameters) in [INPUTS, OUTPUTS].into_iter().filter(|(part, _)| *part == number) {
            for field in Fields(content) {
                if field.map_err(broken)?.0 == parameters {
                    count()?;
                }
            }
        }
    }
    Ok(())
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn number(&mut self) -> Result<u64, Broken> {
        let mut number = 0;
        for place in 0..10 {
            let (&byte, rest) = self.0.split_first().ok_or(Broken)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Broken)
    }

    fn skip(&mut self, bytes: usize) -> Result<&'a [u8], Broken> {
        let (content, rest) = self.0.split_at_checked(bytes).ok_or(Broken)?;
        self.0 = rest;
        Ok(content)
    }

    fn field(&mut self) -> Result<(u64, Option<&'a [u8]>), Broken> {
        let key = self.number()?;
        let content = match key & 7 {
            0 => self.number().map(|_| None),
            1 => self.skip(8).map(|_| None),
            2 => {
                let length = usize::try_from(self.number()?).map_err(|_| Broken)?;
                self.skip(length).map(Some)
            }
            5 => self.skip(4).map(|_| None),
            // Groups: no message here has ever had one.
            _ => Err(Broken),
        }?;
        Ok((key >> 3, content))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Option<&'a [u8]>), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_of_many_empty_parts_is_refused_before_room_is_made_for_them() {
        for part in [[0x22, 0], [0x2a, 0], [0x32, 0], [0x3a, 0]] {
            assert_eq!(check(&part.repeat(PARTS)), Ok(()));
            let error = check(&part.repeat(PARTS + 1)).unwrap_err();
            assert!(error.contains("more than 256 inputs, outputs, raw_input_contents"), "{error}");
        }
        // One input with very many parameters, and one output.
        for (part, parameter) in [(0x2a, [0x22, 0]), (0x32, [0x12, 0])] {
            let many = parameter.repeat(1_000);
            let message = [&[part, 0xd0, 0x0f][..], &many].concat();
            assert!(check(&message).unwrap_err().contains("parameters together"));
        }
        // The values of an input are as many as they are.
        let contents = [&[0x2a, 0xd3, 0x0f, 0x2a, 0xd0, 0x0f][..], &[0x10, 1].repeat(1_000)].concat();
        assert_eq!(check(&contents), Ok(()));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for message in [&[0x2a, 5, 0][..], &[0x2a], &[0x80; 11], &[0x2b, 0x2c], &[0x29, 0]] {
            assert_eq!(check(message), Err("the request is no such message".to_owned()), "{message:?}");
        }
        assert_eq!(check(&[0x0a, 1, b'm', 0x38, 1, 0x3d, 0, 0, 0, 0]), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_through(message in proptest::collection::vec(any::<u8>(), 0..200)) {
            check(&message).ok();
        }
    }
}
