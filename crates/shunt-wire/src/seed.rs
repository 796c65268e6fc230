//! Wire formats of the systems that Shunt replaces (gbaeke/emotion, gbaeke/resnet-score), kept byte for byte.

use serde::{Deserialize, Serialize, de::Error as _};

/// The body of `POST /score` of gbaeke/emotion and gbaeke/resnet-score: `{"data": T}` where `T` is a nested
/// array of integers from 0 to 255, batch-channel-height-width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreRequest {
    /// Batch, channels, height, width.
    pub shape: [usize; 4],
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

impl<'de> Deserialize<'de> for ScoreRequest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            data: Vec<Vec<Vec<Vec<u8>>>>,
        }
        let Raw { data } = Raw::deserialize(deserializer)?;
        let first = data.first().and_then(|batch| batch.first());
        let shape = [
            data.len(),
            data.first().map_or(0, Vec::len),
            first.map_or(0, Vec::len),
            first.and_then(|channel| channel.first()).map_or(0, Vec::len),
        ];
        let ragged = data.iter().any(|batch| batch.len() != shape[1])
            || data.iter().flatten().any(|channel| channel.len() != shape[2])
            || data.iter().flatten().flatten().any(|row| row.len() != shape[3]);
        if ragged {
            return Err(D::Error::custom("the rows of data are not all of the same length"));
        }
        let values = data.into_iter().flatten().flatten().flatten().collect();
        Ok(Self { shape, values })
    }
}
