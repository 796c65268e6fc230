//! How long a model takes.

use std::time::Instant;

use serde::Serialize;

use crate::{Model, ModelError, Tensor, golden};
use shunt_vision::{Colour, Picture, PixelFormat};

/// How long runs of a model took, in milliseconds: from the input, ready made, to the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    /// Runs measured.
    pub runs: usize,
    /// The quickest.
    pub best_ms: f64,
    /// Half of them were quicker.
    pub median_ms: f64,
    /// All but one in a hundred were quicker.
    pub p99_ms: f64,
}

/// Runs that come before those that are measured.
const WARM_UP: usize = 5;

/// Runs a model so many times on the golden picture (or zeros, where it takes bare tensors), after a few runs that are
/// not counted, on this thread.
pub fn measure(model: &Model, runs: usize) -> Result<Timing, ModelError> {
    let inputs = inputs(model)?;
    let mut times = Vec::with_capacity(runs);
    for run in 0..WARM_UP + runs {
        let inputs = inputs.clone();
        let started = Instant::now();
        model.run(inputs)?;
        if run >= WARM_UP {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(Timing::of(times))
}

fn inputs(model: &Model) -> Result<Vec<Tensor>, ModelError> {
    let Some(input) = &model.entry().input else {
        return model.zeros();
    };
    let format = if input.colour == Colour::Rgb { PixelFormat::Rgb8 } else { PixelFormat::Grey8 };
    let picture = Picture::new(input.width(), input.height(), format, golden::pattern(input));
    let picture = picture.unwrap_or_else(|_| Picture::black(input.width(), input.height(), format));
    Ok(vec![model.whole(&picture)?.0])
}

// === impl Timing ===

impl Timing {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let runs = times.len();
        let at = |part: f64| {
            let index = ((runs as f64 * part) as usize).min(runs.saturating_sub(1));
            times.get(index).copied().unwrap_or_default()
        };
        Self { runs, best_ms: at(0.0), median_ms: at(0.5), p99_ms: at(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_extremes_are_those_of_the_sorted_times() {
        let timing = Timing::of((1..=200).rev().map(f64::from).collect());
        assert_eq!(timing, Timing { runs: 200, best_ms: 1.0, median_ms: 101.0, p99_ms: 199.0 });
        assert_eq!(Timing::of(Vec::new()).runs, 0);
        let one = Timing { runs: 1, best_ms: 4.0, median_ms: 4.0, p99_ms: 4.0 };
        assert_eq!(Timing::of(vec![4.0]), one);
    }
}
