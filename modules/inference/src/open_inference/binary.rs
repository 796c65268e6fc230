//! The binary form of tensors: little-endian, last axis fastest, nothing between the values.

use shunt_infer::{Element, Values};

/// Why the bytes are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BytesError {
    /// Too few or too many.
    #[error("it has {found} bytes, but {count} values of {} take {expected}", element.datatype())]
    Count { found: usize, count: usize, expected: usize, element: Element },
    /// A truth value is neither 0 nor 1.
    #[error("the byte {value} at index {index} is no BOOL, which is 0 or 1")]
    Truth { value: u8, index: usize },
}

/// So many values of this type out of their bytes.
pub(super) fn values(bytes: &[u8], element: Element, count: usize) -> Result<Values, BytesError> {
    let expected = count.saturating_mul(element.size());
    if bytes.len() != expected {
        return Err(BytesError::Count { found: bytes.len(), count, expected, element });
    }
    Ok(match element {
        Element::Bool => {
            if let Some((index, value)) = bytes.iter().copied().enumerate().find(|(_, value)| *value > 1) {
                return Err(BytesError::Truth { value, index });
            }
            Values::Bool(bytes.iter().map(|value| *value == 1).collect())
        }
        Element::U8 => Values::U8(bytes.to_vec()),
        Element::I8 => Values::I8(bytes.iter().map(|value| value.cast_signed()).collect()),
        Element::U16 => Values::U16(each(bytes, u16::from_le_bytes)),
        Element::U32 => Values::U32(each(bytes, u32::from_le_bytes)),
        Element::U64 => Values::U64(each(bytes, u64::from_le_bytes)),
        Element::I16 => Values::I16(each(bytes, i16::from_le_bytes)),
        Element::I32 => Values::I32(each(bytes, i32::from_le_bytes)),
        Element::I64 => Values::I64(each(bytes, i64::from_le_bytes)),
        Element::F16 => Values::F16(each(bytes, u16::from_le_bytes)),
        Element::F32 => Values::F32(each(bytes, f32::from_le_bytes)),
        Element::F64 => Values::F64(each(bytes, f64::from_le_bytes)),
    })
}

/// The bytes of values.
pub(super) fn bytes(values: &Values) -> Vec<u8> {
    match values {
        Values::Bool(values) => values.iter().map(|value| u8::from(*value)).collect(),
        Values::U8(values) => values.clone(),
        Values::I8(values) => values.iter().map(|value| value.cast_unsigned()).collect(),
        Values::U16(values) | Values::F16(values) => joined(values, |value| value.to_le_bytes()),
        Values::U32(values) => joined(values, |value| value.to_le_bytes()),
        Values::U64(values) => joined(values, |value| value.to_le_bytes()),
        Values::I16(values) => joined(values, |value| value.to_le_bytes()),
        Values::I32(values) => joined(values, |value| value.to_le_bytes()),
        Values::I64(values) => joined(values, |value| value.to_le_bytes()),
        Values::F32(values) => joined(values, |value| value.to_le_bytes()),
        Values::F64(values) => joined(values, |value| value.to_le_bytes()),
    }
}

/// The bytes of texts: before each its length in four bytes.
pub(super) fn text_bytes(texts: &[String]) -> Vec<u8> {
    // Ours are names of classes: far shorter than four bytes can tell.
    let one = |text: &String| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    texts.iter().flat_map(one).collect()
}

fn each<T, const SIZE: usize>(bytes: &[u8], value: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    let (parts, _) = bytes.as_chunks::<SIZE>();
    parts.iter().map(|part| value(*part)).collect()
}

fn joined<T: Copy, const SIZE: usize>(values: &[T], bytes: impl Fn(T) -> [u8; SIZE]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(values.len() * SIZE);
    for value in values {
        joined.extend_from_slice(&bytes(*value));
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_back_as_it_was() {
        for element in Element::ALL {
            let wire: Vec<u8> = match element {
                Element::Bool => vec![0, 1, 1],
                _ => (1..=3 * element.size() as u8).collect(),
            };
            let values = values(&wire, element, 3).unwrap();
            assert_eq!((values.element(), values.len()), (element, 3));
            assert_eq!(bytes(&values), wire);
        }
        assert_eq!(values(&[0, 0, 128, 63], Element::F32, 1), Ok(Values::F32(vec![1.0])));
        assert_eq!(values(&[255, 255], Element::I16, 1), Ok(Values::I16(vec![-1])));
    }

    #[test]
    fn a_wrong_length_and_a_truth_value_of_two_are_refused() {
        let error = |bytes: &[u8], element, count| values(bytes, element, count).unwrap_err().to_string();
        assert_eq!(error(&[0; 7], Element::F32, 2), "it has 7 bytes, but 2 values of FP32 take 8");
        assert_eq!(error(&[0; 9], Element::F32, 2), "it has 9 bytes, but 2 values of FP32 take 8");
        assert_eq!(error(&[1, 2], Element::Bool, 2), "the byte 2 at index 1 is no BOOL, which is 0 or 1");
        assert!(values(&[], Element::F64, usize::MAX).is_err());
    }

    #[test]
    fn texts_have_their_length_before_them() {
        assert_eq!(text_bytes(&["ab".to_owned(), String::new()]), [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
    }
}
