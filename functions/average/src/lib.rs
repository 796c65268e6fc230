//! `average`: the mean of numbers that are separated by commas. `0,1,1` gives `0.666666666667`.
//!
//! The number is written as Python 2 wrote it, for those who come from there: 12 digits that count, and `.0` behind a
//! whole number. `average.py` beside this file does the same.
#![allow(missing_docs, reason = "what the bindings generator makes has no comments")]

wit_bindgen::generate!({
    path: "../../modules/functions/wit",
    world: "shunt:functions/function",
    generate_all,
});

use exports::shunt::functions::handler::{Guest, Request, Response};

/// Digits that count in an answer.
const DIGITS: i32 = 12;

struct Average;

impl Guest for Average {
    fn handle(request: Request) -> Result<Response, String> {
        let text = str::from_utf8(&request.body).map_err(|_| "numbers are text".to_owned())?;
        let body = written(mean(text)?).into_bytes();
        Ok(Response { content_type: "text/plain; charset=utf-8".to_owned(), body })
    }
}

/// The mean of the numbers, or which of them is none.
fn mean(text: &str) -> Result<f64, String> {
    let (mut sum, mut count) = (0.0, 0.0);
    for word in text.split(',').map(str::trim) {
        let number: f64 = word.parse().map_err(|_| format!("{word:?} is not a number"))?;
        sum += number;
        count += 1.0;
    }
    Ok(sum / count)
}

/// The number as `'%.12g'` writes it, with `.0` where nothing else says that it is no integer.
fn written(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() { "nan" } else if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let places = usize::try_from(DIGITS - 1).unwrap_or_default();
    let scientific = format!("{number:.places$e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if exponent < -4 || exponent >= DIGITS {
        let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or_default();
    let plain = format!("{number:.decimals$}");
    let plain = if plain.contains('.') { plain.trim_end_matches('0').trim_end_matches('.') } else { &plain };
    if plain.contains('.') { plain.to_owned() } else { format!("{plain}.0") }
}

export!(Average);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_2_wrote_them() {
        for (number, text) in [
            (2.0 / 3.0, "0.666666666667"),
            (5.0, "5.0"),
            (-0.5, "-0.5"),
            (0.0, "0.0"),
            (1e12, "1e+12"),
            (123_456_789_012.0, "123456789012.0"),
            (0.000_01, "1e-05"),
            (0.000_123_456_789_012_345, "0.000123456789012"),
            (999_999_999_999.9, "1e+12"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(written(number), text);
        }
    }

    #[test]
    fn what_is_no_number_is_named() {
        assert_eq!(mean("0, 1,1").map(written).as_deref(), Ok("0.666666666667"));
        assert_eq!(mean("1,two"), Err("\"two\" is not a number".to_owned()));
        assert_eq!(mean(""), Err("\"\" is not a number".to_owned()));
    }
}
