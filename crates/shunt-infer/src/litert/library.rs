//! The calls of LiteRT's library, and what owns what of it.
//!
//! The signatures are those of the C headers of LiteRT 2.1.4. They are not promised to stay: newer libraries lack
//! some of the calls that are asked for here, and are refused before anything is called.

#![expect(unsafe_code, reason = "this is where a C library is called; nothing unsafe leaves this file")]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    mem,
    num::NonZeroUsize,
    path::Path,
    ptr, slice,
};

use parking_lot::Mutex;

use crate::{
    BackendError, Element,
    tensor::{LARGEST, size},
};

/// Something that the library owns.
type Handle = *mut c_void;
/// What every call answers; 0 is well.
type Status = c_int;

/// A bit for each kind of processor.
const ON_CPU: c_int = 1;
/// `AutoRegisterAccelerators`: only what these bits name is looked for.
const TAG_ACCELERATORS: c_int = 24;
/// `LiteRtAny` holds an integer.
const ANY_INTEGER: c_int = 2;
/// The settings of the processor are found under this name.
const SETTINGS: &CStr = c"xnnpack";
const LOCK_READ: c_int = 0;
const LOCK_WRITE: c_int = 1;
const QUANTISED_BY_TENSOR: c_int = 1;
const MOST_AXES: usize = 8;

/// `LiteRtEnvOption`: a tag and a `LiteRtAny`.
#[repr(C)]
struct EnvironmentOption {
    tag: c_int,
    value: Any,
}

/// `LiteRtAny`, of which only integers are used.
#[repr(C)]
struct Any {
    kind: c_int,
    value: i64,
}

/// `LiteRtRankedTensorType`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TensorType {
    element: c_int,
    /// The number of axes in the low seven bits, then a bit that says whether there are strides.
    axes: u32,
    lengths: [i32; MOST_AXES],
    strides: [u32; MOST_AXES],
}

/// `LiteRtQuantizationPerTensor`.
#[repr(C)]
#[derive(Default)]
struct PerTensor {
    scale: f32,
    zero_point: i64,
}

macro_rules! calls {
    ($($field:ident = $name:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The calls that are used.
        struct Calls {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Calls {
            /// Looks all of them up.
            fn look_up(library: &libloading::Library) -> Result<Self, String> {
                Ok(Self {
                    $(
                        // SAFETY: the signature is that of the headers of the version that alone has all of these
                        // names; the library is never unloaded, so that the call may outlive the symbol.
                        $field: *unsafe { library.get(concat!($name, "\0").as_bytes()) }
                            .map_err(|_| concat!("it has no call ", $name).to_owned())?,
                    )*
                })
            }
        }
    };
}

calls! {
    // Gone after 2.1: it tells the versions apart. It is called for nothing else.
    _only_in_this_version = "LiteRtGetNumLayoutElements": fn(*const c_void, *mut usize) -> Status;
    create_environment = "LiteRtCreateEnvironment": fn(c_int, *const EnvironmentOption, *mut Handle) -> Status;
    create_model = "LiteRtCreateModelFromBuffer": fn(*const c_void, usize, *mut Handle) -> Status;
    destroy_model = "LiteRtDestroyModel": fn(Handle);
    create_options = "LiteRtCreateOptions": fn(*mut Handle) -> Status;
    destroy_options = "LiteRtDestroyOptions": fn(Handle);
    set_processors = "LiteRtSetOptionsHardwareAccelerators": fn(Handle, c_int) -> Status;
    create_settings = "LiteRtCreateOpaqueOptions":
        fn(*const c_char, *mut c_void, extern "C" fn(*mut c_void), *mut Handle) -> Status;
    add_settings = "LiteRtAddOpaqueOptions": fn(Handle, Handle) -> Status;
    compile = "LiteRtCreateCompiledModel": fn(Handle, Handle, Handle, *mut Handle) -> Status;
    destroy_compiled = "LiteRtDestroyCompiledModel": fn(Handle);
    run = "LiteRtRunCompiledModel": fn(Handle, usize, usize, *mut Handle, usize, *mut Handle) -> Status;
    input_needs = "LiteRtGetCompiledModelInputBufferRequirements": fn(Handle, usize, usize, *mut Handle) -> Status;
    output_needs = "LiteRtGetCompiledModelOutputBufferRequirements": fn(Handle, usize, usize, *mut Handle) -> Status;
    signature = "LiteRtGetModelSignature": fn(Handle, usize, *mut Handle) -> Status;
    input_count = "LiteRtGetNumSignatureInputs": fn(Handle, *mut usize) -> Status;
    output_count = "LiteRtGetNumSignatureOutputs": fn(Handle, *mut usize) -> Status;
    input_name = "LiteRtGetSignatureInputName": fn(Handle, usize, *mut *const c_char) -> Status;
    output_name = "LiteRtGetSignatureOutputName": fn(Handle, usize, *mut *const c_char) -> Status;
    input_tensor = "LiteRtGetSignatureInputTensorByIndex": fn(Handle, usize, *mut Handle) -> Status;
    output_tensor = "LiteRtGetSignatureOutputTensorByIndex": fn(Handle, usize, *mut Handle) -> Status;
    tensor_type = "LiteRtGetRankedTensorType": fn(Handle, *mut TensorType) -> Status;
    quantisation = "LiteRtGetQuantizationTypeId": fn(Handle, *mut c_int) -> Status;
    per_tensor = "LiteRtGetPerTensorQuantization": fn(Handle, *mut PerTensor) -> Status;
    create_buffer = "LiteRtCreateManagedTensorBufferFromRequirements":
        fn(Handle, *const TensorType, Handle, *mut Handle) -> Status;
    destroy_buffer = "LiteRtDestroyTensorBuffer": fn(Handle);
    buffer_size = "LiteRtGetTensorBufferSize": fn(Handle, *mut usize) -> Status;
    lock = "LiteRtLockTensorBuffer": fn(Handle, *mut *mut c_void, c_int) -> Status;
    unlock = "LiteRtUnlockTensorBuffer": fn(Handle) -> Status;
}

/// LiteRT's library, loaded for as long as the process lives.
pub(super) struct Library {
    calls: Calls,
    /// What all models of a process have in common; made once and never given back. Only one model at a time is
    /// compiled in it.
    environment: Mutex<Environment>,
}

struct Environment(Handle);

/// A model that is ready to run, with a buffer for each input and output.
pub(super) struct Compiled {
    library: &'static Library,
    model: Handle,
    ready: Handle,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    /// The model points into it.
    file: Vec<u8>,
}

/// An input or an output.
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) element: Element,
    /// An axis whose length is left open is one long.
    pub(super) shape: Vec<usize>,
    /// What makes real numbers of it: `(value - second) * first`.
    pub(super) scale: Option<(f32, i64)>,
    bytes: usize,
    buffer: Handle,
}

// SAFETY: the environment is a table of what there is on this machine. The library guards it by locks of its own, it
// is not bound to the thread that made it, and here only one thread at a time has it.
unsafe impl Send for Environment {}
// SAFETY: what a compiled model has is its own: nothing of it is bound to a thread, and whoever calls it has it alone
// (`&mut`).
unsafe impl Send for Compiled {}

// === impl Library ===

impl Library {
    /// Loads it. It is never unloaded: it keeps threads and caches of its own.
    pub(super) fn open(file: &Path) -> Result<&'static Self, BackendError> {
        let wrong = |why: String| {
            let file = file.display();
            BackendError(format!(
                "the library {file} is not LiteRT 2.1, which is needed: {why}; install it with `scripts/setup infer`"
            ))
        };
        // SAFETY: what a library does when it is loaded is up to who put it there: it comes from a pinned package
        // whose digest was checked, or is named by the owner of this machine.
        let library = unsafe { libloading::Library::new(file) };
        let library = library.map_err(|error| wrong(BackendError::from_chain(error).0))?;
        let library = mem::ManuallyDrop::new(library);
        let calls = Calls::look_up(&library).map_err(wrong)?;
        let value = Any { kind: ANY_INTEGER, value: ON_CPU.into() };
        let options = [EnvironmentOption { tag: TAG_ACCELERATORS, value }];
        let mut environment = ptr::null_mut();
        // SAFETY: as many options as said, which are copied; the handle is written to a place of ours.
        let status = unsafe {
            (calls.create_environment)(options.len() as c_int, options.as_ptr(), &raw mut environment)
        };
        check(status, "cannot start LiteRT")?;
        Ok(Box::leak(Box::new(Self { calls, environment: Mutex::new(Environment(environment)) })))
    }

    /// Makes a model ready to run. The file was checked before.
    pub(super) fn compile(
        &'static self,
        file: Vec<u8>,
        threads: NonZeroUsize,
    ) -> Result<Compiled, BackendError> {
        let mut made = Compiled {
            library: self,
            model: ptr::null_mut(),
            ready: ptr::null_mut(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            file,
        };
        // After `made`, which locks it too when it is dropped.
        let environment = self.environment.lock();
        // SAFETY: the bytes are there for as long as the model, which `made` owns from here on.
        let status = unsafe {
            (self.calls.create_model)(made.file.as_ptr().cast(), made.file.len(), &raw mut made.model)
        };
        check(status, "LiteRT cannot read the file")?;
        let options = Options::new(self, threads)?;
        // SAFETY: all three handles are alive; the compiled model, which points to the others, is given back before
        // the model; the environment is never given back.
        let status =
            unsafe { (self.calls.compile)(environment.0, made.model, options.handle, &raw mut made.ready) };
        check(status, "LiteRT cannot make the model ready")?;
        drop(options);
        made.open_slots(&environment)?;
        Ok(made)
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Library").finish_non_exhaustive()
    }
}

/// How a model is to be compiled.
struct Options {
    library: &'static Library,
    handle: Handle,
    /// The options point to it.
    settings: CString,
}

// === impl Options ===

impl Options {
    fn new(library: &'static Library, threads: NonZeroUsize) -> Result<Self, BackendError> {
        let settings = CString::new(format!("num_threads={threads}")).unwrap_or_default();
        let mut made = Self { library, handle: ptr::null_mut(), settings };
        let calls = &library.calls;
        // SAFETY: the handle is written to a place of ours, and `made` owns it from here on.
        check(unsafe { (calls.create_options)(&raw mut made.handle) }, "LiteRT has no options")?;
        // SAFETY: the handle is alive.
        check(unsafe { (calls.set_processors)(made.handle, ON_CPU) }, "LiteRT does not know the processor")?;
        let mut settings = ptr::null_mut();
        // SAFETY: both texts end in a zero; the first lives for ever, the second as long as the options. Nothing is
        // to be done when they are given back.
        let status = unsafe {
            (calls.create_settings)(
                SETTINGS.as_ptr(),
                made.settings.as_ptr().cast_mut().cast(),
                keep,
                &raw mut settings,
            )
        };
        check(status, "LiteRT takes no settings")?;
        // SAFETY: both handles are alive; the options own the settings from here on.
        check(unsafe { (calls.add_settings)(made.handle, settings) }, "LiteRT takes no settings")?;
        Ok(made)
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: it is alive, and nobody has it after this.
            unsafe { (self.library.calls.destroy_options)(self.handle) }
        }
    }
}

/// What is called when settings are given back: they are ours.
extern "C" fn keep(_: *mut c_void) {}

// === impl Compiled ===

impl Compiled {
    pub(super) fn inputs(&self) -> &[Slot] {
        &self.inputs
    }

    pub(super) fn outputs(&self) -> &[Slot] {
        &self.outputs
    }

    /// Writes an input.
    pub(super) fn write(&mut self, index: usize, bytes: &[u8]) -> Result<(), BackendError> {
        let slot = self.inputs.get(index).filter(|slot| slot.bytes == bytes.len());
        let slot =
            slot.ok_or_else(|| BackendError(format!("{} bytes do not fit input {index}", bytes.len())))?;
        self.with_bytes(slot, LOCK_WRITE, |memory| {
            // SAFETY: the buffer has at least so many bytes, which was checked when it was made; it is locked for
            // writing, so that nobody else has them.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len()) }
        })
    }

    /// Runs the model on what was written.
    pub(super) fn run(&mut self) -> Result<(), BackendError> {
        let mut inputs: Vec<Handle> = self.inputs.iter().map(|slot| slot.buffer).collect();
        let mut outputs: Vec<Handle> = self.outputs.iter().map(|slot| slot.buffer).collect();
        // SAFETY: all handles are alive, and there is a buffer of the wanted size for each input and output.
        let status = unsafe {
            (self.library.calls.run)(
                self.ready,
                0,
                inputs.len(),
                inputs.as_mut_ptr(),
                outputs.len(),
                outputs.as_mut_ptr(),
            )
        };
        check(status, "LiteRT cannot run the model")
    }

    /// A copy of an output.
    pub(super) fn read(&mut self, index: usize) -> Result<Vec<u8>, BackendError> {
        let slot =
            self.outputs.get(index).ok_or_else(|| BackendError(format!("it has no output {index}")))?;
        let mut copy = Vec::new();
        self.with_bytes(slot, LOCK_READ, |memory| {
            // SAFETY: the buffer has at least so many bytes, which was checked when it was made, and LiteRT wrote
            // them or set them to zero; it is locked for reading, so that nobody writes.
            copy.extend_from_slice(unsafe { slice::from_raw_parts(memory, slot.bytes) });
        })?;
        Ok(copy)
    }

    fn with_bytes(
        &self,
        slot: &Slot,
        mode: c_int,
        use_bytes: impl FnOnce(*mut u8),
    ) -> Result<(), BackendError> {
        let calls = &self.library.calls;
        let mut memory = ptr::null_mut();
        // SAFETY: the buffer is alive; the address is written to a place of ours.
        check(unsafe { (calls.lock)(slot.buffer, &raw mut memory, mode) }, "LiteRT locks no buffer")?;
        if !memory.is_null() {
            use_bytes(memory.cast());
        }
        // SAFETY: it was locked just now.
        check(unsafe { (calls.unlock)(slot.buffer) }, "LiteRT unlocks no buffer")?;
        if memory.is_null() { Err(BackendError("LiteRT gives no memory".into())) } else { Ok(()) }
    }

    /// Makes a buffer for each input and output of the first signature, which every file has.
    fn open_slots(&mut self, environment: &Environment) -> Result<(), BackendError> {
        let calls = &self.library.calls;
        let mut signature = ptr::null_mut();
        // SAFETY: the model is alive and has at least one signature; the handle belongs to it.
        check(unsafe { (calls.signature)(self.model, 0, &raw mut signature) }, "the file has no signature")?;
        let (mut inputs, mut outputs) = (0, 0);
        // SAFETY: the signature is alive; the numbers are written to places of ours.
        check(unsafe { (calls.input_count)(signature, &raw mut inputs) }, "the file tells no inputs")?;
        // SAFETY: as above.
        check(unsafe { (calls.output_count)(signature, &raw mut outputs) }, "the file tells no outputs")?;
        for index in 0..inputs {
            let slot = self.open_slot(
                environment,
                index,
                signature,
                (calls.input_name, calls.input_tensor, calls.input_needs),
            )?;
            self.inputs.push(slot);
        }
        for index in 0..outputs {
            let slot = self.open_slot(
                environment,
                index,
                signature,
                (calls.output_name, calls.output_tensor, calls.output_needs),
            )?;
            self.outputs.push(slot);
        }
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "the three calls that differ between inputs and outputs")]
    fn open_slot(
        &self,
        environment: &Environment,
        index: usize,
        signature: Handle,
        (name, tensor, needs): (
            unsafe extern "C" fn(Handle, usize, *mut *const c_char) -> Status,
            unsafe extern "C" fn(Handle, usize, *mut Handle) -> Status,
            unsafe extern "C" fn(Handle, usize, usize, *mut Handle) -> Status,
        ),
    ) -> Result<Slot, BackendError> {
        let calls = &self.library.calls;
        let mut text = ptr::null();
        // SAFETY: the signature is alive and has so many; the text belongs to it.
        check(unsafe { name(signature, index, &raw mut text) }, "a tensor has no name")?;
        let name = if text.is_null() {
            String::new()
        } else {
            // SAFETY: it ends in a zero and lives as long as the model.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        let wrong = |problem: &str| BackendError(format!("the tensor {name:?} {problem}"));
        let mut handle = ptr::null_mut();
        // SAFETY: as above; the tensor belongs to the model.
        check(unsafe { tensor(signature, index, &raw mut handle) }, "a tensor is missing")?;
        let mut kind = TensorType::default();
        // SAFETY: the tensor is alive, and the place is as large as the call's.
        check(unsafe { (calls.tensor_type)(handle, &raw mut kind) }, "a tensor has no shape")?;
        let element = element(kind.element).ok_or_else(|| wrong("has a type that is not served"))?;
        let axes = (kind.axes & 0x7f) as usize;
        let mut shape = Vec::new();
        for length in kind.lengths.iter_mut().take(axes) {
            *length = if *length < 0 { 1 } else { *length };
            shape.push(*length as usize);
        }
        let bytes = size(&shape, element).filter(|bytes| *bytes <= LARGEST && axes <= MOST_AXES);
        let bytes = bytes.ok_or_else(|| wrong("is too large"))?;
        let scale = self.scale(handle, element);
        let mut needed = ptr::null_mut();
        // SAFETY: the compiled model is alive and has so many; what it needs belongs to it.
        check(unsafe { needs(self.ready, 0, index, &raw mut needed) }, "LiteRT asks for no buffer")?;
        let mut buffer = ptr::null_mut();
        // SAFETY: all handles are alive, the type is the tensor's; the slot owns the buffer from here on.
        let status =
            unsafe { (calls.create_buffer)(environment.0, &raw const kind, needed, &raw mut buffer) };
        check(status, "LiteRT gives no buffer")?;
        let mut size = 0;
        // SAFETY: the buffer is alive; the number is written to a place of ours.
        let status = unsafe { (calls.buffer_size)(buffer, &raw mut size) };
        if status != 0 || size < bytes {
            // SAFETY: it is alive, and nobody has it after this.
            unsafe { (calls.destroy_buffer)(buffer) };
            return Err(wrong("has a buffer that is too small"));
        }
        Ok(Slot { name, element, shape, scale, bytes, buffer })
    }

    fn scale(&self, tensor: Handle, element: Element) -> Option<(f32, i64)> {
        if !matches!(element, Element::U8 | Element::I8 | Element::I16) {
            return None;
        }
        let mut kind = 0;
        // SAFETY: the tensor is alive; the number is written to a place of ours.
        let status = unsafe { (self.library.calls.quantisation)(tensor, &raw mut kind) };
        if status != 0 || kind != QUANTISED_BY_TENSOR {
            return None;
        }
        let mut scale = PerTensor::default();
        // SAFETY: the tensor is alive, and the place is as large as the call's.
        let status = unsafe { (self.library.calls.per_tensor)(tensor, &raw mut scale) };
        (status == 0).then_some((scale.scale, scale.zero_point))
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        // What is compiled, and given back, uses the environment: one thread at a time.
        let _environment = self.library.environment.lock();
        let calls = &self.library.calls;
        for slot in self.inputs.iter().chain(&self.outputs) {
            // SAFETY: it is alive, and nobody has it after this.
            unsafe { (calls.destroy_buffer)(slot.buffer) };
        }
        if !self.ready.is_null() {
            // SAFETY: as above; it goes before the model to which it points.
            unsafe { (calls.destroy_compiled)(self.ready) };
        }
        if !self.model.is_null() {
            // SAFETY: as above; the bytes to which it points go after it.
            unsafe { (calls.destroy_model)(self.model) };
        }
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Compiled").finish_non_exhaustive()
    }
}

/// Our type for one of LiteRT's.
fn element(kind: c_int) -> Option<Element> {
    Some(match kind {
        1 => Element::F32,
        2 => Element::I32,
        3 => Element::U8,
        4 => Element::I64,
        6 => Element::Bool,
        7 => Element::I16,
        9 => Element::I8,
        10 => Element::F16,
        11 => Element::F64,
        13 => Element::U64,
        16 => Element::U32,
        17 => Element::U16,
        _ => return None,
    })
}

/// What a status says.
fn check(status: Status, what: &str) -> Result<(), BackendError> {
    let why = match status {
        0 => return Ok(()),
        1 => "it holds an argument for invalid",
        2 => "there is not enough memory",
        3 => "it failed, and wrote why to standard error",
        5 => "something in it is not supported",
        500 => "a file cannot be read",
        501 => "it is no TensorFlow Lite file, or a damaged one",
        504 => "it cannot be compiled",
        _ => "see LiteRT's list of statuses",
    };
    Err(BackendError(format!("{what}: {why} (status {status})")))
}
