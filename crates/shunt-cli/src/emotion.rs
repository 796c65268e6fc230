//! `shunt emotion`: the faces of one picture and their expressions, without the chain.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use shunt_infer::{Backends, ExpressionReader, FaceFinder, FaceOptions, FaceReading, ModelStore};
use shunt_vision::{DecodeLimits, Picture, decode, draw_rect, draw_text, encode_jpeg, encode_png, to_rgb};
use shunt_wire::events::{Expression, Rect};

use crate::{chain, output, steps::Steps};

/// Find the faces of a picture and read their expressions.
#[derive(Debug, Args)]
pub(crate) struct Emotion {
    /// The picture: JPEG, PNG, BMP, GIF or WebP.
    picture: PathBuf,
    /// Write the picture with the boxes drawn in: .png or .jpg.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The face finder.
    #[arg(long, value_name = "MODEL")]
    face_model: Option<String>,
    /// The expression reader.
    #[arg(long = "emotion-model", value_name = "MODEL")]
    expression_model: Option<String>,
    /// How sure the face finder must be, 0 to 1.
    #[arg(long, value_name = "SCORE")]
    min_score: Option<f32>,
    /// The most faces.
    #[arg(long, value_name = "COUNT")]
    max_faces: Option<usize>,
}

// === impl Emotion ===

impl Emotion {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        // Heavy work from here on: not for the threads of the runtime.
        tokio::task::spawn_blocking(move || self.judge()).await?
    }

    fn judge(&self) -> anyhow::Result<ExitCode> {
        let mut steps = Steps::begin();
        let cannot = || format!("cannot use {}", self.picture.display());
        let bytes = std::fs::read(&self.picture).with_context(cannot)?;
        let picture = decode(&bytes, &DecodeLimits::default()).with_context(cannot)?;
        steps.done("read and decode");
        let store = ModelStore::open(&chain::models_folder())?;
        let defaults = store.catalog().defaults.clone();
        let backends = Backends::installed();
        let model = self.face_model.as_ref().unwrap_or(&defaults.face);
        let finder = FaceFinder::load(&store, model, &backends)?;
        steps.done("load the face finder");
        let model = self.expression_model.as_ref().unwrap_or(&defaults.expression);
        let reader = ExpressionReader::load(&store, model, &backends)?;
        steps.done("load the expression reader");
        let mut options = FaceOptions::default();
        options.min_score = self.min_score.unwrap_or(options.min_score);
        options.max_faces = self.max_faces.unwrap_or(options.max_faces);
        let found = finder.find(&picture, &options)?;
        steps.done("find faces");
        let mut faces = Vec::new();
        for face in found {
            let probabilities = reader.read(&picture, face.bounds)?;
            faces.push(FaceReading { bounds: face.bounds, score: face.score, probabilities });
        }
        steps.done("read expressions");
        if let Some(file) = &self.out {
            draw(&picture, &faces, file)?;
            steps.done("draw and write");
        }
        if self.json {
            output::line(self.as_json(&picture, &faces, &steps))?;
        } else {
            print(&picture, &faces, &steps)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn as_json(&self, picture: &Picture, faces: &[FaceReading], steps: &Steps) -> Value {
        json!({
            "picture": self.picture,
            "width": picture.width,
            "height": picture.height,
            "faces": faces,
            "ms": steps.as_json(),
        })
    }
}

fn print(picture: &Picture, faces: &[FaceReading], steps: &Steps) -> anyhow::Result<()> {
    output::line(format_args!("{} x {} pixels, {} faces", picture.width, picture.height, faces.len()))?;
    if !faces.is_empty() {
        let rows: Vec<Vec<String>> = faces
            .iter()
            .map(|face| {
                let Rect { x, y, width, height } = face.bounds;
                let mut others: Vec<(Expression, f32)> =
                    Expression::ALL.into_iter().zip(face.probabilities.to_fer_plus()).collect();
                others.sort_by(|one, other| other.1.total_cmp(&one.1));
                let others: Vec<String> =
                    others.iter().take(3).map(|(name, value)| format!("{name} {value:.2}")).collect();
                vec![
                    format!("{x:.0},{y:.0} {width:.0}x{height:.0}"),
                    format!("{:.2}", face.score),
                    others.join(", "),
                ]
            })
            .collect();
        output::line(output::table(&["face at", "score", "expression"], &rows))?;
    }
    output::line(steps.as_table())
}

fn draw(picture: &Picture, faces: &[FaceReading], file: &Path) -> anyhow::Result<()> {
    const GREEN: [u8; 3] = [60, 220, 60];
    let mut drawn = to_rgb(picture.clone());
    let thickness = (picture.width.max(picture.height) / 320).max(2);
    let scale = (picture.width / 640).max(1);
    for face in faces {
        draw_rect(&mut drawn, face.bounds, thickness, GREEN);
        let (emotion, probability) = face.probabilities.best();
        let above = face.bounds.y as i32 - 10 * scale as i32;
        draw_text(
            &mut drawn,
            face.bounds.x as i32,
            above.max(0),
            &format!("{emotion} {probability:.2}"),
            scale,
            GREEN,
        );
    }
    let bytes = match file.extension().and_then(|extension| extension.to_str()) {
        Some("jpg" | "jpeg") => encode_jpeg(&drawn, 90)?,
        Some("png") => encode_png(&drawn)?,
        _ => anyhow::bail!("{} must end in .png or .jpg", file.display()),
    };
    std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}
