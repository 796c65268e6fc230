//! Numbers in JSON, quickly: flat or nested arrays of them into values of one type.

use std::str::FromStr;

use half::f16;
use shunt_infer::{Element, Values};

/// Characters of a value that an error repeats.
const SHOWN: usize = 40;

/// Why the numbers are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NumberError {
    /// It is no array.
    #[error("its data must be an array of numbers")]
    NoArray,
    /// A value is none of this type.
    #[error("the value {value} at index {index} is {wrong} {}", element.datatype())]
    Value { value: String, index: usize, wrong: Wrong, element: Element },
    /// Too few or too many.
    #[error("it has {found} values, but its shape {shape:?} needs {expected}")]
    Count { found: usize, expected: usize, shape: Vec<usize> },
    /// The arrays are nested otherwise than the shape says.
    #[error(
        "its arrays are not nested as its shape {shape:?} says, near index {index}; one flat array is taken too"
    )]
    Nesting { index: usize, shape: Vec<usize> },
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    Kind,
    Range,
    Fraction,
}

/// How deep a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// In one array for all.
    Flat,
    /// In an array for each axis.
    Nested,
}

/// Where the scanner is.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    shape: &'a [usize],
    form: Form,
    /// How many members each open array has so far, the outermost first.
    open: Vec<usize>,
    index: usize,
}

// === impl Wrong ===

impl std::fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Kind => "no",
            Self::Range => "out of the range of",
            Self::Fraction => "not whole as it must be for",
        })
    }
}

/// The values of `text`, which is valid JSON: one flat array, or arrays nested as the shape says.
pub(super) fn values(text: &str, element: Element, shape: &[usize]) -> Result<Values, NumberError> {
    let scan = Scan { text, element, shape };
    Ok(match element {
        Element::Bool => Values::Bool(scan.all(truth)?),
        Element::U8 => Values::U8(scan.all(whole)?),
        Element::U16 => Values::U16(scan.all(whole)?),
        Element::U32 => Values::U32(scan.all(whole)?),
        Element::U64 => Values::U64(scan.all(whole)?),
        Element::I8 => Values::I8(scan.all(whole)?),
        Element::I16 => Values::I16(scan.all(whole)?),
        Element::I32 => Values::I32(scan.all(whole)?),
        Element::I64 => Values::I64(scan.all(whole)?),
        Element::F16 => Values::F16(scan.all(half)?),
        Element::F32 => Values::F32(scan.all(single)?),
        Element::F64 => Values::F64(scan.all(double)?),
    })
}

/// What is to be read.
struct Scan<'a> {
    text: &'a str,
    element: Element,
    shape: &'a [usize],
}

// === impl Scan ===

impl Scan<'_> {
    fn all<T>(&self, read: impl Fn(&[u8]) -> Result<T, Wrong>) -> Result<Vec<T>, NumberError> {
        let count = self.shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length));
        let wrong_count = |found| NumberError::Count {
            found,
            expected: count.unwrap_or(usize::MAX),
            shape: self.shape.to_vec(),
        };
        let mut scanner = Scanner::new(self.text.as_bytes(), self.shape)?;
        // A number takes two bytes at least, with what parts it from the next: no shape makes us ask for more.
        let mut values = Vec::with_capacity(count.unwrap_or(0).min(self.text.len() / 2 + 1));
        while let Some(token) = scanner.next()? {
            match read(token) {
                Ok(value) if Some(values.len()) != count => values.push(value),
                Ok(_) => return Err(wrong_count(values.len() + 1 + scanner.rest()?)),
                Err(wrong) => {
                    let value = String::from_utf8_lossy(token).chars().take(SHOWN).collect();
                    let index = scanner.index.saturating_sub(1);
                    return Err(NumberError::Value { value, index, wrong, element: self.element });
                }
            }
        }
        if Some(values.len()) != count {
            return Err(wrong_count(values.len()));
        }
        Ok(values)
    }
}

// === impl Scanner ===

impl<'a> Scanner<'a> {
    fn new(text: &'a [u8], shape: &'a [usize]) -> Result<Self, NumberError> {
        let start = text.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(text.len());
        if text.get(start) != Some(&b'[') {
            return Err(NumberError::NoArray);
        }
        let next = text.iter().skip(start + 1).find(|byte| !byte.is_ascii_whitespace());
        let form = if next == Some(&b'[') { Form::Nested } else { Form::Flat };
        Ok(Self { text, at: start + 1, shape, form, open: vec![0], index: 0 })
    }

    /// The next value's text, or nothing at the end.
    fn next(&mut self) -> Result<Option<&'a [u8]>, NumberError> {
        loop {
            let Some(byte) = self.text.get(self.at) else { return Ok(None) };
            match byte {
                b',' | b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                b'[' => {
                    self.member()?;
                    if self.form == Form::Flat || self.open.len() >= self.shape.len() {
                        return Err(self.nesting());
                    }
                    self.open.push(0);
                    self.at += 1;
                }
                b']' => {
                    let members = self.open.pop();
                    if self.form == Form::Nested && members != self.shape.get(self.open.len()).copied() {
                        return Err(self.nesting());
                    }
                    self.at += 1;
                }
                _ => return self.token().map(Some),
            }
        }
    }

    /// A number or whatever else stands here.
    fn token(&mut self) -> Result<&'a [u8], NumberError> {
        if self.form == Form::Nested && self.open.len() != self.shape.len() {
            return Err(self.nesting());
        }
        self.member()?;
        self.index += 1;
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| matches!(byte, b',' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
        let token = rest.get(..length.unwrap_or(rest.len())).unwrap_or_default();
        self.at += token.len();
        Ok(token)
    }

    fn member(&mut self) -> Result<(), NumberError> {
        match self.open.last_mut() {
            Some(members) => *members += 1,
            None => return Err(self.nesting()),
        }
        Ok(())
    }

    fn nesting(&self) -> NumberError {
        NumberError::Nesting { index: self.index, shape: self.shape.to_vec() }
    }

    /// How many values are left.
    fn rest(&mut self) -> Result<usize, NumberError> {
        let mut count = 0;
        while self.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

/// `true`, `false`, 1 or 0.
fn truth(token: &[u8]) -> Result<bool, Wrong> {
    match token {
        b"true" | b"1" => Ok(true),
        b"false" | b"0" => Ok(false),
        _ => Err(Wrong::Kind),
    }
}

/// A number without a fraction, however it is written: `12`, `12.0`, `1.2e1`.
fn whole<T: TryFrom<i64> + FromStr>(token: &[u8]) -> Result<T, Wrong> {
    let (negative, digits) = sign(token);
    if matches!(digits.len(), 1..=18) && digits.iter().all(u8::is_ascii_digit) {
        let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        return T::try_from(if negative { -value } else { value }).map_err(|_| Wrong::Range);
    }
    let text = number(token)?;
    if let Ok(value) = text.parse() {
        return Ok(value);
    }
    let value: f64 = text.parse().map_err(|_| Wrong::Kind)?;
    if value.fract() != 0.0 {
        return Err(Wrong::Fraction);
    }
    // Up to here a 64-bit floating point number holds each whole number.
    if value.abs() > 9_007_199_254_740_992.0 {
        return Err(Wrong::Range);
    }
    T::try_from(value as i64).map_err(|_| Wrong::Range)
}

fn half(token: &[u8]) -> Result<u16, Wrong> {
    let value = f16::from_f64(double(token)?);
    if value.is_finite() { Ok(value.to_bits()) } else { Err(Wrong::Range) }
}

fn single(token: &[u8]) -> Result<f32, Wrong> {
    if let Some(value) = short(token) {
        return Ok(value);
    }
    let value: f32 = number(token)?.parse().map_err(|_| Wrong::Kind)?;
    if value.is_finite() { Ok(value) } else { Err(Wrong::Range) }
}

fn double(token: &[u8]) -> Result<f64, Wrong> {
    let value: f64 = number(token)?.parse().map_err(|_| Wrong::Kind)?;
    if value.is_finite() { Ok(value) } else { Err(Wrong::Range) }
}

/// A number of up to seven digits without an exponent. It and the power of ten are exact, so their quotient is the
/// nearest there is: the same as the long way gives.
fn short(token: &[u8]) -> Option<f32> {
    const POWERS: [f32; 8] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7];
    let (negative, digits) = sign(token);
    if !matches!(digits.len(), 1..=8) {
        return None;
    }
    let (mut value, mut count, mut point) = (0_u32, 0, None);
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                value = value * 10 + u32::from(byte - b'0');
                count += 1;
            }
            b'.' if point.is_none() => point = Some(count),
            _ => return None,
        }
    }
    if count > 7 {
        return None;
    }
    let value = value as f32 / POWERS.get(count - point.unwrap_or(count))?;
    Some(if negative { -value } else { value })
}

fn sign(token: &[u8]) -> (bool, &[u8]) {
    match token {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    }
}

/// The text of a number: Rust's own reading would take `inf` and `NaN` too.
fn number(token: &[u8]) -> Result<&str, Wrong> {
    let plain = token.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
    if !plain {
        return Err(Wrong::Kind);
    }
    str::from_utf8(token).map_err(|_| Wrong::Kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, element: Element, shape: &[usize]) -> Result<Values, String> {
        values(text, element, shape).map_err(|error| error.to_string())
    }

    fn error(text: &str, element: Element, shape: &[usize]) -> String {
        read(text, element, shape).unwrap_err()
    }

    #[test]
    fn flat_and_nested_arrays_are_the_same() {
        let expected = Values::U8(vec![1, 2, 3, 4, 5, 6]);
        for text in ["[1,2,3,4,5,6]", " [ [1, 2,3 ] ,\n[4,5,\t6] ] ", "[[1.0,2e0,30e-1],[4,5,6]]"] {
            assert_eq!(read(text, Element::U8, &[2, 3]), Ok(expected.clone()), "{text}");
        }
        assert_eq!(read("[]", Element::F32, &[0, 3]), Ok(Values::F32(vec![])));
        assert_eq!(read("[7]", Element::I64, &[]), Ok(Values::I64(vec![7])));
    }

    #[test]
    fn every_type_takes_its_own_extremes() {
        assert_eq!(
            read("[true,false,1,0]", Element::Bool, &[4]),
            Ok(Values::Bool(vec![true, false, true, false]))
        );
        assert_eq!(read("[0,255]", Element::U8, &[2]), Ok(Values::U8(vec![0, 255])));
        assert_eq!(read("[65535]", Element::U16, &[1]), Ok(Values::U16(vec![65535])));
        assert_eq!(read("[4294967295]", Element::U32, &[1]), Ok(Values::U32(vec![u32::MAX])));
        assert_eq!(read("[18446744073709551615]", Element::U64, &[1]), Ok(Values::U64(vec![u64::MAX])));
        assert_eq!(read("[-128,127]", Element::I8, &[2]), Ok(Values::I8(vec![-128, 127])));
        assert_eq!(read("[-32768]", Element::I16, &[1]), Ok(Values::I16(vec![-32768])));
        assert_eq!(read("[-2147483648]", Element::I32, &[1]), Ok(Values::I32(vec![i32::MIN])));
        assert_eq!(read("[-9223372036854775808]", Element::I64, &[1]), Ok(Values::I64(vec![i64::MIN])));
        assert_eq!(read("[65504,-1.5]", Element::F16, &[2]), Ok(Values::F16(vec![0x7bff, 0xbe00])));
        let Ok(Values::F32(singles)) = read("[3.4028235e38,-0.0,1e-45]", Element::F32, &[3]) else {
            panic!()
        };
        let bits: Vec<u32> = singles.into_iter().map(f32::to_bits).collect();
        assert_eq!(bits, [f32::MAX.to_bits(), (-0.0_f32).to_bits(), 1]);
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_with_its_index() {
        assert_eq!(
            error("[1,300]", Element::U8, &[2]),
            "the value 300 at index 1 is out of the range of UINT8"
        );
        assert_eq!(
            error("[-1]", Element::U32, &[1]),
            "the value -1 at index 0 is out of the range of UINT32"
        );
        assert_eq!(
            error("[[1,2],[3,1.5]]", Element::I32, &[2, 2]),
            "the value 1.5 at index 3 is not whole as it must be for INT32"
        );
        assert_eq!(
            error("[1e300]", Element::I64, &[1]),
            "the value 1e300 at index 0 is out of the range of INT64"
        );
        assert_eq!(
            error("[1e39]", Element::F32, &[1]),
            "the value 1e39 at index 0 is out of the range of FP32"
        );
        assert_eq!(
            error("[70000]", Element::F16, &[1]),
            "the value 70000 at index 0 is out of the range of FP16"
        );
        for (text, value) in [("[null]", "null"), ("[true]", "true"), ("[\"1\"]", "\"1\""), ("[{}]", "{}")] {
            assert_eq!(error(text, Element::F32, &[1]), format!("the value {value} at index 0 is no FP32"));
        }
        assert_eq!(error("[2]", Element::Bool, &[1]), "the value 2 at index 0 is no BOOL");
    }

    #[test]
    fn too_few_too_many_and_otherwise_nested_values_are_told() {
        assert_eq!(error("7", Element::U8, &[1]), "its data must be an array of numbers");
        assert_eq!(error("{\"a\":[1]}", Element::U8, &[1]), "its data must be an array of numbers");
        assert_eq!(error("[1]", Element::U8, &[2]), "it has 1 values, but its shape [2] needs 2");
        assert_eq!(error("[1,2,3,4]", Element::U8, &[2]), "it has 4 values, but its shape [2] needs 2");
        let nesting = |index| {
            format!(
                "its arrays are not nested as its shape [2, 2] says, near index {index}; one flat array is taken too"
            )
        };
        for (text, index) in [
            ("[[1,2,3],[4]]", 3),
            ("[[1,2],3,4]", 2),
            ("[[[1,2],[3,4]]]", 0),
            ("[1,[2,3],4]", 1),
            ("[[1,2]]", 2),
        ] {
            assert_eq!(error(text, Element::U8, &[2, 2]), nesting(index), "{text}");
        }
    }

    #[test]
    fn short_numbers_are_those_of_the_long_way() {
        // Numbers of seven digits, with the point at each place in turn.
        for value in (0..10_000_000_u32).step_by(97) {
            let (place, text) = (value as usize % 8, format!("{value:07}"));
            let text = if place == 7 { text } else { format!("{}.{}", &text[..place], &text[place..]) };
            let expected: f32 = text.parse().unwrap();
            assert_eq!(short(text.as_bytes()).map(f32::to_bits), Some(expected.to_bits()), "{text}");
        }
    }

    #[test]
    fn a_shape_beyond_all_memory_asks_for_none() {
        assert!(matches!(
            values("[1]", Element::F64, &[usize::MAX, 2]),
            Err(NumberError::Count { found: 1, expected: usize::MAX, .. })
        ));
    }
}
