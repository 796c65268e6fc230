//! Takes a model file of a user into a folder of models: what `shunt_infer::import` found out of it is printed, and the
//! file, its labels and its entry for the catalog are written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use shunt_infer::{
    Backends, Fit, Format, ImportOrder, Imported, ModelStore, Normalise, Task, import as try_model,
};
use shunt_vision::{DecodeLimits, Picture, decode, resize};

use super::fetch::put;
use crate::{chain, output};

/// No more pictures than these are tried.
const MOST_PICTURES: usize = 100;
/// Larger ones are made smaller: pixels.
const LONGEST_SIDE: u32 = 1024;

/// Take a model file in: a .tflite file is converted to ONNX and proven against LiteRT, an .onnx file is tried.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file, .tflite or .onnx.
    file: PathBuf,
    /// Its name in the catalog [default: that of the file].
    #[arg(long)]
    name: Option<String>,
    /// What it is for: `classify` tells what a picture shows, `tensors` is for anything else [default: classify with
    /// --labels, else tensors].
    #[arg(long)]
    task: Option<String>,
    /// The names of its classes, a line each.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// How the values of a picture go into a model of real numbers: raw, unit, symmetric, imagenet.
    #[arg(long, default_value = "symmetric")]
    normalise: String,
    /// Pad pictures to its shape instead of stretching them.
    #[arg(long)]
    letterbox: bool,
    /// Its licence.
    #[arg(long, default_value = "not told")]
    licence: String,
    /// A folder of pictures to try it on [default: the demo's, and `images` in the folders of models].
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Put it here [default: `SHUNT_MODELS_DIR`, else the repository's models].
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

// === impl Import ===

impl Import {
    /// Heavy: not on an async thread.
    pub(super) fn run(self, store: &ModelStore) -> anyhow::Result<()> {
        let into = self.into.clone().unwrap_or_else(chain::models_folder);
        let shown = self.file.display();
        let file = fs::read(&self.file).with_context(|| format!("cannot read {shown}"))?;
        let format = match self.file.extension().and_then(|extension| extension.to_str()) {
            Some("tflite") => Format::Tflite,
            Some("onnx") => Format::Onnx,
            _ => anyhow::bail!("{shown} is neither a .tflite nor an .onnx file"),
        };
        let name = self.name.clone().unwrap_or_else(|| name_of(&self.file));
        let entry = entry_file(&into, &name);
        anyhow::ensure!(
            store.entry(&name).is_err() || entry.is_file(),
            "the catalog has a model {name} already; give yours another name with --name"
        );
        let labels = self.labels.as_ref().map(|labels| {
            fs::read_to_string(labels).with_context(|| format!("cannot read {}", labels.display()))
        });
        let labels = labels.transpose()?;
        let pictures = self.try_on(store)?;
        let file_name = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let imported = try_model(
            &ImportOrder {
                name: &name,
                file: &file,
                file_name: &file_name,
                format,
                task: self.task()?,
                labels: labels.as_deref(),
                normalise: self.normalise()?,
                fit: if self.letterbox { Fit::Letterbox } else { Fit::Stretch },
                licence: &self.licence,
                pictures: &pictures,
            },
            &Backends::installed(),
        )?;
        tell(&imported)?;
        write(&imported, &name, &into)?;
        output::line(format_args!("served   {}", into.join(&imported.entry.file).display()))?;
        output::line(format_args!("entry    {}", entry.display()))
    }

    fn task(&self) -> anyhow::Result<Task> {
        match self.task.as_deref() {
            Some("classify") => Ok(Task::Classify),
            Some("tensors") => Ok(Task::Tensors),
            Some(other) => anyhow::bail!("{other:?} is no task of an imported model: classify, tensors"),
            None if self.labels.is_some() => Ok(Task::Classify),
            None => Ok(Task::Tensors),
        }
    }

    fn normalise(&self) -> anyhow::Result<Normalise> {
        Ok(match self.normalise.as_str() {
            "raw" => Normalise::Raw,
            "unit" => Normalise::Unit,
            "symmetric" => Normalise::Symmetric,
            "imagenet" => Normalise::Imagenet,
            other => anyhow::bail!("{other:?} is no way to normalise: raw, unit, symmetric, imagenet"),
        })
    }

    /// The pictures on which it is tried.
    fn try_on(&self, store: &ModelStore) -> anyhow::Result<Vec<(String, Picture)>> {
        let demo = chain::repository().map(|repository| repository.join(".shunt/pictures"));
        let folders = match &self.pictures {
            Some(folder) => vec![folder.clone()],
            None => {
                let beside = store.folders().iter().map(|folder| folder.join("images"));
                demo.into_iter().chain(beside).filter(|folder| folder.is_dir()).collect()
            }
        };
        let mut pictures = Vec::new();
        for folder in folders {
            let listed =
                fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
            let mut files = listed.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
            files.sort();
            for file in files.into_iter().filter(|file| file.is_file()) {
                let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                // What is no picture lies beside some: a licence, a list.
                let Ok(picture) = decode(&bytes, &DecodeLimits::default()) else { continue };
                let picture = small(picture);
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if pictures.iter().all(|(known, _)| *known != name) && pictures.len() < MOST_PICTURES {
                    pictures.push((name, picture));
                }
            }
        }
        anyhow::ensure!(
            self.pictures.is_none() || !pictures.is_empty(),
            "there is no picture in {}",
            self.pictures.as_deref().unwrap_or(Path::new("")).display()
        );
        Ok(pictures)
    }
}

/// No larger than any model looks at: a hundred photographs do not fit into the memory of a small device.
fn small(picture: Picture) -> Picture {
    let longest = picture.width.max(picture.height);
    if longest <= LONGEST_SIDE {
        return picture;
    }
    let side = |side: u32| (u64::from(side) * u64::from(LONGEST_SIDE) / u64::from(longest)).max(1) as u32;
    let (width, height) = (side(picture.width), side(picture.height));
    resize(&picture, width, height)
}

/// A name for the catalog out of that of a file: `My_Model v2.tflite` becomes `my-model-v2`.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let words = stem.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

fn entry_file(into: &Path, name: &str) -> PathBuf {
    into.join("catalog.d").join(format!("{name}.toml"))
}

/// What was found out.
fn tell(imported: &Imported) -> anyhow::Result<()> {
    match &imported.verdict {
        None => {}
        Some(Err(error)) => {
            output::line(format_args!("proof    not converted: {error}; LiteRT serves the original"))?;
        }
        Some(Ok(verdict)) if verdict.wrong.is_some() => {
            output::line(format_args!("proof    failed: {verdict}; LiteRT serves the original"))?;
        }
        Some(Ok(verdict)) => output::line(format_args!("proof    {verdict}"))?,
    }
    for note in &imported.notes {
        output::line(format_args!("note     {note}"))?;
    }
    for (name, time) in &imported.times {
        output::line(format_args!("time     {:.1} ms with {name}", time.as_secs_f64() * 1e3))?;
    }
    Ok(())
}

/// Writes the model and its labels, and then the entry that names them.
fn write(imported: &Imported, name: &str, into: &Path) -> anyhow::Result<()> {
    let write = |file: &Path, bytes: &[u8]| {
        put(file, bytes).with_context(|| format!("cannot write {}", file.display()))
    };
    write(&into.join(&imported.entry.file), &imported.file)?;
    if let Some((file, labels)) = &imported.labels {
        write(&into.join(file), labels.as_bytes())?;
    }
    write(&entry_file(into, name), imported.catalog(name)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_s_name_becomes_one_for_the_catalog() {
        for (file, name) in [
            ("My_Model v2.tflite", "my-model-v2"),
            ("/x/mobilenet_v1_1.0_224_quant.tflite", "mobilenet-v1-1-0-224-quant"),
            ("net.onnx", "net"),
        ] {
            assert_eq!(name_of(Path::new(file)), name);
        }
    }
}
