//! The back end `onnxruntime`: ONNX Runtime, whose library is loaded when it is first wanted.
//!
//! Nothing of it is needed to build. `scripts/setup infer` and the images' builds put the library in place; where it
//! is not there, or is too old, this back end says so and the others serve.

use std::{ffi::CStr, fmt::Debug, fs, mem, path::Path, sync::Arc};

use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};
use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider as _},
    logging::LogLevel,
    session::{Session, SessionInputValue, builder::GraphOptimizationLevel},
    value::{Outlet, PrimitiveTensorElementType, TensorElementType, TensorRef, Value, ValueType},
};
use parking_lot::Mutex;

use crate::{
    Backend, BackendError, Description, Element, Format, Loaded, Missing, Order, Port, Tensor, Values,
    libraries::Library,
};

const NAME: &str = "onnxruntime";

/// The second variable is that of other programs with ONNX Runtime.
const LIBRARY: Library =
    Library { file: "libonnxruntime.so", variables: &["SHUNT_ONNXRUNTIME_LIBRARY", "ORT_DYLIB_PATH"] };

/// The one of this process: a second environment is refused, and the library is never unloaded.
static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

/// Runs ONNX models with ONNX Runtime.
#[derive(Debug, Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    version: String,
    /// Was the library built with the execution provider for NVIDIA's accelerators?
    cuda: bool,
}

#[derive(Debug)]
struct OnnxModel {
    /// A run takes the session for itself (`ort` holds that ONNX Runtime's own `Run` is not safe otherwise): runs of
    /// one model follow each other. What makes one run faster on several cores is [`crate::RunOptions::threads`].
    session: Mutex<Session>,
    description: Description,
    memory: u64,
}

// === impl OnnxRuntime ===

impl OnnxRuntime {
    /// Loads the library, or takes that which this process has loaded already.
    ///
    /// # Errors
    ///
    /// It is nowhere, or is no ONNX Runtime that serves: why, and what to do.
    pub fn find() -> Result<Self, Missing> {
        let mut loaded = LOADED.lock();
        if let Some(known) = &*loaded {
            return Ok(known.clone());
        }
        let found = LIBRARY.find().map_err(|error| BackendError(error.to_string()));
        match found.and_then(|library| Self::load_library(&library)) {
            Ok(found) => Ok(loaded.insert(found).clone()),
            Err(error) => Err(Missing { name: NAME, why: error.to_string() }),
        }
    }

    fn load_library(library: &Path) -> Result<Self, BackendError> {
        let version = version(library)?;
        if !is_enough(&version) {
            return Err(BackendError(format!(
                "the library {} is ONNX Runtime {version}, but 1.{} or newer is needed; install one with \
                 `scripts/setup infer`",
                library.display(),
                ort::MINOR_VERSION
            )));
        }
        let builder = ort::init_from(library).map_err(BackendError::from_chain)?;
        // What is wrong comes as an error from the call that failed; the rest is for who looks for a mistake.
        let log = |_: LogLevel, _: &str, _: &str, place: &str, message: &str| {
            tracing::debug!(place, "ONNX Runtime says: {message}");
        };
        let builder = builder.with_name("shunt").with_telemetry(false).with_logger(Arc::new(log));
        let environment = builder.build().map_err(BackendError::from_chain)?;
        environment.set_log_level(LogLevel::Warning);
        let cuda = ep::CUDA::is_available().unwrap_or(false);
        Ok(Self { environment, version, cuda })
    }

    /// A session, and what it runs on.
    fn session(&self, order: &Order<'_>) -> ort::Result<(Session, &'static str)> {
        if self.cuda && order.options.accelerator {
            match self.session_on(order, true) {
                Ok(session) => return Ok((session, "cuda")),
                Err(error) => {
                    tracing::warn!("The accelerator cannot be used, the processor is: {error}.");
                }
            }
        }
        Ok((self.session_on(order, false)?, "cpu"))
    }

    fn session_on(&self, order: &Order<'_>, cuda: bool) -> ort::Result<Session> {
        let threads = order.options.threads.get();
        // Without arena and pattern what a run needs is given back after it. Both keep the most that any run needed,
        // for each model; that they make a run faster could not be measured.
        let processor = ep::CPU::default().with_arena_allocator(false).build();
        let mut providers = vec![processor];
        if cuda {
            providers.insert(0, ep::CUDA::default().build().error_on_failure());
        }
        Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            // Threads that wait for the next run do not keep a core busy.
            .with_intra_op_spinning(false)?
            .with_memory_pattern(false)?
            .with_execution_providers(providers)?
            .commit_from_memory(order.file)
    }
}

impl Backend for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        format!("ONNX Runtime {}", self.version)
    }

    fn takes(&self, format: Format) -> bool {
        format == Format::Onnx
    }

    fn load(&self, order: &Order<'_>) -> Result<Box<dyn Loaded>, BackendError> {
        let before = resident();
        let (session, device) = self.session(order).map_err(BackendError::from_chain)?;
        let description = Description {
            backend: NAME,
            device,
            inputs: session.inputs().iter().map(port).collect::<Result<_, _>>()?,
            outputs: session.outputs().iter().map(port).collect::<Result<_, _>>()?,
        };
        let memory = resident().saturating_sub(before).max(order.file.len() as u64);
        Ok(Box::new(OnnxModel { session: Mutex::new(session), description, memory }))
    }
}

/// The version that a library tells. It stays loaded.
#[expect(
    unsafe_code,
    reason = "`ort` ends by a panic where a library is not what it says; this asks it before"
)]
fn version(library: &Path) -> Result<String, BackendError> {
    let wrong = |why: &str| {
        let file = library.display();
        BackendError(format!(
            "the library {file} is not ONNX Runtime: {why}; install it with `scripts/setup infer`"
        ))
    };
    // SAFETY: what a library does when it is loaded is up to who put it there: it comes from a pinned package whose
    // digest was checked, or is named by the owner of this machine.
    let opened = unsafe { libloading::Library::new(library) }.map_err(|error| wrong(&chain(&error)))?;
    // Kept: some libraries do not survive to be unloaded, and `ort` takes this one next.
    let opened = mem::ManuallyDrop::new(opened);
    // SAFETY: all versions of the C API have this entry with this signature.
    let entry = unsafe {
        opened.get::<unsafe extern "system" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase\0")
    };
    let entry = entry.map_err(|error| wrong(&chain(&error)))?;
    // SAFETY: it takes nothing, and answers with null or with a table that lives as long as the library, which is
    // never unloaded.
    let base = unsafe { entry().as_ref() }.ok_or_else(|| wrong("it has no table of calls"))?;
    // SAFETY: an entry of that table; it takes nothing and answers with null or with a text that is never freed.
    let text = unsafe {
        let text = (base.GetVersionString)();
        (!text.is_null()).then(|| CStr::from_ptr(text))
    };
    let text = text.and_then(|text| text.to_str().ok()).ok_or_else(|| wrong("it tells no version"))?;
    Ok(text.to_owned())
}

/// An error and its causes: the loader of libraries says in the last what the matter is.
fn chain(error: &libloading::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Does this version have all calls that are used?
fn is_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(1), Some(minor)) => minor >= ort::MINOR_VERSION,
        _ => false,
    }
}

fn port(outlet: &Outlet) -> Result<Port, BackendError> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(BackendError(format!("{:?} is no tensor: such models are not served", outlet.name())));
    };
    let shape = shape.iter().map(|length| usize::try_from(*length).ok()).collect();
    Ok(Port { name: outlet.name().to_owned(), element: element(*ty)?, shape })
}

/// Our type for one of ONNX Runtime's.
fn element(own: TensorElementType) -> Result<Element, BackendError> {
    Ok(match own {
        TensorElementType::Bool => Element::Bool,
        TensorElementType::Uint8 => Element::U8,
        TensorElementType::Uint16 => Element::U16,
        TensorElementType::Uint32 => Element::U32,
        TensorElementType::Uint64 => Element::U64,
        TensorElementType::Int8 => Element::I8,
        TensorElementType::Int16 => Element::I16,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Int64 => Element::I64,
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float64 => Element::F64,
        other => return Err(BackendError(format!("values of the type {other} are not served"))),
    })
}

/// Bytes of memory that this process has in use; 0 where the system does not tell.
pub(crate) fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

// === impl OnnxModel ===

impl Loaded for OnnxModel {
    fn describe(&self) -> &Description {
        &self.description
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, BackendError> {
        let values =
            inputs.iter().map(view).collect::<ort::Result<Vec<_>>>().map_err(BackendError::from_chain)?;
        let mut session = self.session.lock();
        let outputs = session.run(values.as_slice()).map_err(BackendError::from_chain)?;
        outputs.values().map(|output| copy(&output)).collect()
    }

    fn memory(&self) -> Option<u64> {
        Some(self.memory)
    }
}

/// A tensor as ONNX Runtime takes it; the values stay where they are.
fn view(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    fn of<'a, T>(shape: &'a [usize], values: &'a [T]) -> ort::Result<SessionInputValue<'a>>
    where
        T: PrimitiveTensorElementType + Clone + Debug + 'static,
    {
        TensorRef::from_array_view((shape, values)).map(SessionInputValue::from)
    }
    let shape = tensor.shape.as_slice();
    match &tensor.values {
        Values::Bool(values) => of(shape, values),
        Values::U8(values) => of(shape, values),
        Values::U16(values) => of(shape, values),
        Values::U32(values) => of(shape, values),
        Values::U64(values) => of(shape, values),
        Values::I8(values) => of(shape, values),
        Values::I16(values) => of(shape, values),
        Values::I32(values) => of(shape, values),
        Values::I64(values) => of(shape, values),
        Values::F16(bits) => of(shape, bits.reinterpret_cast::<half::f16>()),
        Values::F32(values) => of(shape, values),
        Values::F64(values) => of(shape, values),
    }
}

/// A copy of an output.
fn copy(output: &Value) -> Result<Tensor, BackendError> {
    fn list<T: PrimitiveTensorElementType + Clone>(output: &Value) -> Result<Vec<T>, BackendError> {
        let (_, values) = output.try_extract_tensor::<T>().map_err(BackendError::from_chain)?;
        Ok(values.to_vec())
    }
    let ValueType::Tensor { ty, shape, .. } = output.dtype() else {
        return Err(BackendError("an output is no tensor".to_owned()));
    };
    let values = match element(*ty)? {
        Element::Bool => Values::Bool(list(output)?),
        Element::U8 => Values::U8(list(output)?),
        Element::U16 => Values::U16(list(output)?),
        Element::U32 => Values::U32(list(output)?),
        Element::U64 => Values::U64(list(output)?),
        Element::I8 => Values::I8(list(output)?),
        Element::I16 => Values::I16(list(output)?),
        Element::I32 => Values::I32(list(output)?),
        Element::I64 => Values::I64(list(output)?),
        Element::F16 => Values::F16(list::<half::f16>(output)?.reinterpret_cast().to_vec()),
        Element::F32 => Values::F32(list(output)?),
        Element::F64 => Values::F64(list(output)?),
    };
    Ok(Tensor { shape: shape.iter().map(|length| *length as usize).collect(), values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_with_all_calls_are_enough() {
        for (version, enough) in [
            ("1.31.1", true),
            ("1.17.0", true),
            ("1.99.0-dev", true),
            ("1.16.3", false),
            ("2.0.0", false),
            ("", false),
            ("x.y", false),
        ] {
            assert_eq!(is_enough(version), enough, "{version}");
        }
    }

    #[test]
    fn a_file_that_is_no_library_and_a_library_that_is_another_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libonnxruntime.so");
        fs::write(&file, b"no library").unwrap();
        let error = version(&file).unwrap_err().to_string();
        assert!(error.contains("is not ONNX Runtime") && error.contains("`scripts/setup infer`"), "{error}");

        // Every Linux with glibc has this one.
        if let Err(error) = version(Path::new("libm.so.6")) {
            assert!(error.0.contains("OrtGetApiBase"), "{error}");
        } else {
            panic!("libm.so.6 is no ONNX Runtime");
        }
    }
}
