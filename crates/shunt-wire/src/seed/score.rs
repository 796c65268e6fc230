//! `POST /score` of gbaeke/emotion and gbaeke/resnet-score.

use serde::{Deserialize, Serialize, de::IgnoredAny};

/// How deep `data` is nested: batch, channels, rows, values.
const DEPTH: usize = 4;

/// The body of `POST /score` of gbaeke/emotion and gbaeke/resnet-score: `{"data": T}` where `T` is a nested
/// array of integers from 0 to 255, batch-channel-height-width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreRequest {
    /// Batch, channels, height, width.
    pub shape: [usize; DEPTH],
    /// The values, row by row.
    pub values: Vec<u8>,
}

/// The answer of `POST /score`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreAnswer {
    /// Probabilities, flat. The clients search for the largest starting from 0, so they must not be logits.
    pub result: Vec<f32>,
    /// Seconds that the model took.
    pub time: f64,
}

/// Why a body is no [`ScoreRequest`]. Places are told as in JavaScript, `data[0][2][17][5]`, and as bytes of the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// It ends too early.
    #[error("the body ends after {bytes} bytes, before the request does")]
    CutOff {
        /// Bytes of the body.
        bytes: usize,
    },
    /// It is no JSON object.
    #[error("{found} at byte {byte}, where {expected} must be: wanted is {{\"data\": ...}}")]
    Json {
        /// Where.
        byte: usize,
        /// What is there.
        found: String,
        /// What must be there.
        expected: &'static str,
    },
    /// It has no `data`.
    #[error("the field `data` is missing")]
    NoData,
    /// Something in `data` is another thing than it must be.
    #[error("{place} is {found} (byte {byte}), but must be {expected}")]
    Value {
        /// Its place in `data`.
        place: String,
        /// What is there.
        found: String,
        /// Where.
        byte: usize,
        /// What must be there.
        expected: &'static str,
    },
    /// The lists of a level are not all of the same length.
    #[error(
        "{place} has {found} values where those before it have {expected}: not all are of the same length"
    )]
    Ragged {
        /// The list's place in `data`.
        place: String,
        /// Its length.
        found: usize,
        /// The length of those before it.
        expected: usize,
    },
}

/// Reads a body from the front to the back, once. A generic reader of JSON takes several times as long for the 150,528
/// values of a picture.
#[derive(Debug)]
struct Scanner<'a> {
    body: &'a [u8],
    /// What is not read yet.
    rest: &'a [u8],
    /// The length of the lists of each level, as soon as one has ended.
    shape: [Option<usize>; DEPTH],
    /// Where we are in each level.
    place: [usize; DEPTH],
    values: Vec<u8>,
}

// === impl ScoreRequest ===

impl ScoreRequest {
    /// Reads the body of a request. Other fields than `data` are passed over. A number may have a fraction of zeros
    /// (`12.0`), as Python writes an array of floating point numbers; any other fraction, exponents and `NaN` are
    /// refused.
    ///
    /// ```
    /// use shunt_wire::seed::ScoreRequest;
    ///
    /// let request = ScoreRequest::parse(br#"{"data": [[[[0, 128, 255.0]]]]}"#)?;
    /// assert_eq!((request.shape, request.values), ([1, 1, 1, 3], vec![0, 128, 255]));
    /// let error = ScoreRequest::parse(br#"{"data": [[[[0, 256]]]]}"#).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "data[0][0][0][1] is 256 (byte 16), but must be a whole number from 0 to 255"
    /// );
    /// # Ok::<(), shunt_wire::seed::ScoreError>(())
    /// ```
    pub fn parse(body: &[u8]) -> Result<Self, ScoreError> {
        let mut scanner =
            Scanner { body, rest: body, shape: [None; DEPTH], place: [0; DEPTH], values: Vec::new() };
        scanner.object()?;
        Ok(Self { shape: scanner.shape.map(Option::unwrap_or_default), values: scanner.values })
    }
}

// === impl Scanner ===

impl<'a> Scanner<'a> {
    fn object(&mut self) -> Result<(), ScoreError> {
        self.expect(b'{', "an object")?;
        let mut found = false;
        if self.peek()? == b'}' {
            return Err(ScoreError::NoData);
        }
        loop {
            let name = self.name()?;
            self.expect(b':', "a colon")?;
            self.space();
            if name != b"\"data\"" {
                self.pass_over()?;
            } else if found {
                return Err(self.unexpected("another field than a second `data`"));
            } else {
                self.list(0)?;
                found = true;
            }
            match self.peek()? {
                b',' => self.step(),
                b'}' => break,
                _ => return Err(self.unexpected("a comma or the end of the object")),
            }
        }
        self.step();
        self.space();
        if !self.rest.is_empty() {
            return Err(self.unexpected("the end of the body"));
        }
        if found { Ok(()) } else { Err(ScoreError::NoData) }
    }

    /// A field's name, with its quotes.
    fn name(&mut self) -> Result<&'a [u8], ScoreError> {
        if self.peek()? != b'"' {
            return Err(self.unexpected("a field's name"));
        }
        let text = self.rest;
        self.pass_over()?;
        Ok(text.get(..text.len() - self.rest.len()).unwrap_or_default())
    }

    /// Passes over a value that does not concern us.
    fn pass_over(&mut self) -> Result<(), ScoreError> {
        let mut values = serde_json::Deserializer::from_slice(self.rest).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {
                self.rest = self.rest.get(values.byte_offset()..).unwrap_or_default();
                Ok(())
            }
            Some(Err(error)) if !error.is_eof() => Err(self.unexpected("a value in JSON")),
            _ => Err(ScoreError::CutOff { bytes: self.body.len() }),
        }
    }

    /// The list that begins here, of this level, with all that is in it.
    fn list(&mut self, level: usize) -> Result<(), ScoreError> {
        if self.peek()? != b'[' {
            return Err(self.wrong(level, "a list: data is nested four deep, batch, channels, rows, values"));
        }
        self.step();
        let mut length = 0;
        if self.peek()? == b']' {
            self.step();
        } else if level == DEPTH - 1 {
            length = self.row()?;
        } else {
            loop {
                self.set_place(level, length);
                self.list(level + 1)?;
                length += 1;
                match self.peek()? {
                    b',' => self.step(),
                    b']' => break,
                    _ => return Err(self.unexpected("a comma or the end of the list")),
                }
            }
            self.step();
        }
        match self.shape.get_mut(level) {
            Some(Some(expected)) if *expected != length => {
                let expected = *expected;
                Err(ScoreError::Ragged { place: self.path(level), found: length, expected })
            }
            Some(known) => {
                *known = Some(length);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The values of the row whose bracket was just read, with the bracket at its end. All time is spent here.
    fn row(&mut self) -> Result<usize, ScoreError> {
        let before = self.values.len();
        loop {
            // Mostly there is no space, or one: Python's.
            while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.rest {
                self.rest = rest;
            }
            let start = self.rest;
            let [first @ b'0'..=b'9', rest @ ..] = start else {
                return Err(self.no_number(before));
            };
            let (mut rest, mut value) = (rest, u16::from(first - b'0'));
            while let [digit @ b'0'..=b'9', more @ ..] = rest {
                // JSON knows no leading zeros, and none of our numbers has four digits.
                if value == 0 || value > 25 {
                    return Err(self.no_number(before));
                }
                value = value * 10 + u16::from(digit - b'0');
                rest = more;
            }
            let Ok(value) = u8::try_from(value) else { return Err(self.no_number(before)) };
            if let [b'.' | b'e' | b'E', ..] = rest {
                rest = zeros(rest).ok_or_else(|| self.no_number(before))?;
            }
            self.values.push(value);
            while let [b' ' | b'\n' | b'\r' | b'\t', more @ ..] = rest {
                rest = more;
            }
            match rest {
                [b',', rest @ ..] => self.rest = rest,
                [b']', rest @ ..] => {
                    self.rest = rest;
                    return Ok(self.values.len() - before);
                }
                _ => {
                    self.rest = rest;
                    self.peek()?;
                    return Err(self.unexpected("a comma or the end of the list"));
                }
            }
        }
    }

    /// What to say of a value of a row that is none.
    fn no_number(&mut self, row_begins: usize) -> ScoreError {
        self.set_place(DEPTH - 1, self.values.len() - row_begins);
        match self.peek() {
            Ok(_) => self.wrong(DEPTH, "a whole number from 0 to 255"),
            Err(error) => error,
        }
    }

    fn set_place(&mut self, level: usize, index: usize) {
        if let Some(place) = self.place.get_mut(level) {
            *place = index;
        }
    }

    /// The next byte that is no space.
    fn peek(&mut self) -> Result<u8, ScoreError> {
        self.space();
        self.rest.first().copied().ok_or(ScoreError::CutOff { bytes: self.body.len() })
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), ScoreError> {
        if self.peek()? != byte {
            return Err(self.unexpected(expected));
        }
        self.step();
        Ok(())
    }

    fn step(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    fn space(&mut self) {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Bytes read.
    fn byte(&self) -> usize {
        self.body.len() - self.rest.len()
    }

    fn unexpected(&self, expected: &'static str) -> ScoreError {
        ScoreError::Json { byte: self.byte(), found: self.found(), expected }
    }

    /// What is here, of this level of `data`, is another thing than it must be.
    fn wrong(&self, level: usize, expected: &'static str) -> ScoreError {
        ScoreError::Value { place: self.path(level), found: self.found(), byte: self.byte(), expected }
    }

    /// The place of a list or value of this level: `data[0][2]` of the second.
    fn path(&self, level: usize) -> String {
        let indexes = self.place.iter().take(level).map(|index| format!("[{index}]"));
        format!("data{}", indexes.collect::<String>())
    }

    /// What is here, in words, or its first characters.
    fn found(&self) -> String {
        match self.rest.first() {
            None => "the end of the body".to_owned(),
            Some(b'[') => "a list".to_owned(),
            Some(b'{') => "an object".to_owned(),
            Some(b'"') => "a text".to_owned(),
            Some(b',' | b']' | b'}' | b':') => {
                format!("`{}`", self.rest.escape_ascii().take(1).map(char::from).collect::<String>())
            }
            Some(_) => {
                let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
                let end = self.rest.iter().take(24).position(ends).unwrap_or(self.rest.len().min(24));
                self.rest.get(..end).unwrap_or_default().escape_ascii().to_string()
            }
        }
    }
}

/// What comes after a fraction of zeros; nothing where this is another fraction or an exponent.
fn zeros(rest: &[u8]) -> Option<&[u8]> {
    let [b'.', b'0', rest @ ..] = rest else { return None };
    let mut rest = rest;
    while let [b'0', more @ ..] = rest {
        rest = more;
    }
    match rest {
        [b'0'..=b'9' | b'e' | b'E' | b'.', ..] => None,
        _ => Some(rest),
    }
}
