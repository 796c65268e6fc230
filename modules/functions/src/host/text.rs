//! Text functions: one interpreter for each language, compiled ahead, runs the texts of all functions, each call in an
//! instance of its own.
//!
//! To compile CPython takes half a minute of one core, so it is never done here but by [`compile_ahead`], when the image
//! or the demo is built. What it makes fits engines of the same settings and version only; it lies in a folder with
//! their key for a name, beside a list of digests.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use wasmtime::{
    Engine, Store,
    component::{Component, Linker},
};

use super::{
    Answer, CallError, Code, Guest, Host, HostInner, Kind, Refusal, Request,
    account::shortened,
    cache::engine_key,
    call::{standard_streams_to_log, within},
    context::{self, Scene},
    engine,
    world::text::{
        Text as Interpreter, TextPre,
        exports::shunt::functions::interpreter::{Answer as Answered, Call},
    },
};
use crate::{grants::Limits, reach::Reach};

/// Milliseconds that the text outside the handler may take when a function is installed.
const CHECK_MS: u32 = 2_000;

/// How long a text waits for a place to be run in when it is installed.
const CHECK_WAIT: Duration = Duration::from_secs(10);

/// What a check may write besides its verdict.
const CHECK_OUTPUT: usize = 64 << 10;

/// Headers of an answer at most, and their bytes together: as many as a client takes.
const HEADERS: usize = 100;
const HEADER_BYTES: usize = 64 << 10;

/// A language that functions are written in as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    JavaScript,
}

/// The interpreters, each loaded once.
pub(super) struct Interpreters {
    folder: PathBuf,
    python: Mutex<Option<TextPre<Scene>>>,
    javascript: Mutex<Option<TextPre<Scene>>>,
}

/// A text and what runs it.
pub(super) struct Text {
    language: Language,
    interpreter: TextPre<Scene>,
    source: Arc<str>,
}

/// An interpreter that was compiled ahead.
#[derive(Debug)]
pub struct Prepared {
    /// The language.
    pub language: &'static str,
    /// Bytes of machine code and memory image.
    pub bytes: u64,
    /// How long it took; none where it was there already.
    pub took: Option<Duration>,
}

/// Compiles the interpreters of a folder, for engines of this program's settings and version. What is there already
/// is left alone; what was made for other engines is removed.
///
/// # Errors
/// Where an interpreter is missing or cannot be compiled, or the folder cannot be written.
pub(crate) fn compile_ahead(folder: &Path) -> anyhow::Result<Vec<Prepared>> {
    let engine = engine::compiling().map_err(anyhow::Error::from).context("no WebAssembly engine")?;
    let compiled = compiled_folder(folder, &engine);
    remove_others(&compiled)?;
    fs::create_dir_all(&compiled).with_context(|| format!("cannot make {}", compiled.display()))?;
    Language::ALL.into_iter().map(|language| language.compile_ahead(&engine, folder, &compiled)).collect()
}

/// Where code for this engine lies.
fn compiled_folder(folder: &Path, engine: &Engine) -> PathBuf {
    folder.join("compiled").join(engine_key(engine))
}

/// Removes what lies beside this folder.
fn remove_others(compiled: &Path) -> anyhow::Result<()> {
    let Some(parent) = compiled.parent().filter(|parent| parent.is_dir()) else { return Ok(()) };
    for entry in fs::read_dir(parent).with_context(|| format!("cannot read {}", parent.display()))? {
        let path = entry?.path();
        if path != compiled && path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Writes a file so that it is there whole or not at all.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = file.with_extension(format!("new-{}", std::process::id()));
    let mut draft = File::create(&new)?;
    draft.write_all(bytes)?;
    draft.sync_all()?;
    fs::rename(&new, file)?;
    file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The digest of some bytes, in hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// Calls a text function: a fresh instance of its interpreter runs the text, then its handler.
pub(super) async fn call(
    engine: &Engine,
    text: &Text,
    request: Request,
    limits: Limits,
    reach: Reach,
) -> Result<Answer, CallError> {
    let file = format!("{}.{}", request.name, text.language.extension());
    let cause = request.cause.clone();
    let call = called(request);
    let mut store = text.store(engine, limits, reach);
    store.data_mut().cause = cause;
    let answered = within(&mut store, limits, async |store| {
        let interpreter = text.begin(store, limits).await?;
        interpreter.shunt_functions_interpreter().call_run(store, &file, &text.source, &call).await
    })
    .await?;
    answered.map_err(CallError::Failed).and_then(answer)
}

/// The request as an interpreter takes it.
fn called(request: Request) -> Call {
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Call {
        headers: request.headers.iter().map(header).collect(),
        name: request.name,
        source: request.source,
        method: request.method.as_str().to_owned(),
        path: request.path,
        query: request.query,
        content_type: request.content_type,
        body: request.body.into(),
    }
}

/// The answer of an interpreter as the host's.
fn answer(answered: Answered) -> Result<Answer, CallError> {
    let status = StatusCode::from_u16(answered.status)
        .map_err(|_| CallError::Failed(format!("{} is no HTTP status", answered.status)))?;
    let mut headers = HeaderMap::new();
    let bytes: usize = answered.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if answered.headers.len() > HEADERS || bytes > HEADER_BYTES {
        return Err(CallError::Failed(format!(
            "it answered {} headers of {bytes} bytes; {HEADERS} of {HEADER_BYTES} bytes together are taken",
            answered.headers.len()
        )));
    }
    for (name, value) in answered.headers {
        let header = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(&value).ok());
        let Some((name, value)) = header else {
            return Err(CallError::Failed(format!("it answered a header that is none: {name}: {value}")));
        };
        // There is room for so few.
        headers.try_append(name, value).ok();
    }
    Ok(Answer {
        status,
        headers,
        content_type: answered.content_type,
        body: answered.body.into(),
        ..Answer::default()
    })
}

// === impl Language ===

impl Language {
    const ALL: [Self; 2] = [Self::Python, Self::JavaScript];

    fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Python => Some(Self::Python),
            Kind::JavaScript => Some(Self::JavaScript),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Python => "Python",
            Self::JavaScript => "JavaScript",
        }
    }

    /// The name of its files.
    fn stem(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Python => "py",
            Self::JavaScript => "js",
        }
    }

    /// The machine code in a folder, and the list of digests beside it: of the machine code, then of the component that
    /// it was made from.
    fn files(self, compiled: &Path) -> (PathBuf, PathBuf) {
        (
            compiled.join(self.stem()).with_extension("cwasm"),
            compiled.join(self.stem()).with_extension("sha256"),
        )
    }

    fn compile_ahead(self, engine: &Engine, folder: &Path, compiled: &Path) -> anyhow::Result<Prepared> {
        let file = folder.join(self.stem()).with_extension("wasm");
        let component = fs::read(&file).with_context(|| {
            format!("there is no {}: scripts/build-interpreters makes it", file.display())
        })?;
        let from = digest(&component);
        let (code_file, digests) = self.files(compiled);
        if self.is_there(compiled, &from) {
            return Ok(Prepared {
                language: self.name(),
                bytes: fs::metadata(&code_file)?.len(),
                took: None,
            });
        }
        let begun = Instant::now();
        let code = engine
            .precompile_component(&component)
            .map_err(anyhow::Error::from)
            .with_context(|| format!("cannot compile {}", file.display()))?;
        let list = format!("{}\n{from}\n", digest(&code));
        write(&code_file, &code).with_context(|| format!("cannot write {}", code_file.display()))?;
        write(&digests, list.as_bytes()).with_context(|| format!("cannot write {}", digests.display()))?;
        Ok(Prepared { language: self.name(), bytes: code.len() as u64, took: Some(begun.elapsed()) })
    }

    /// Is the machine code of this component there, whole?
    fn is_there(self, compiled: &Path, from: &str) -> bool {
        let (code, digests) = self.files(compiled);
        let Ok(list) = fs::read_to_string(digests) else { return false };
        let mut lines = list.lines();
        let (of_code, of_component) = (lines.next(), lines.next());
        of_component == Some(from) && fs::read(code).is_ok_and(|code| of_code == Some(&digest(&code)))
    }

    /// Loads the machine code, if it is what was written.
    fn load(self, engine: &Engine, linker: &Linker<Scene>, folder: &Path) -> anyhow::Result<TextPre<Scene>> {
        let (file, digests) = self.files(&compiled_folder(folder, engine));
        let list = fs::read_to_string(&digests).with_context(|| format!("no {}", digests.display()))?;
        let mut handle = File::open(&file).with_context(|| format!("no {}", file.display()))?;
        let mut code = Vec::new();
        handle.read_to_end(&mut code).with_context(|| format!("cannot read {}", file.display()))?;
        if list.lines().next() != Some(&digest(&code)) {
            bail!("{} has another digest than the one it was written with", file.display());
        }
        drop(code);
        // The very file that was looked at, also where another one has its name by now. It is mapped and not copied: of
        // CPython's 50 MB most are never touched.
        let same = format!("/proc/self/fd/{}", handle.as_raw_fd());
        #[expect(unsafe_code, reason = "there is no other way to load machine code")]
        // SAFETY: the file is what `compile_ahead` wrote, as its digest says; it writes new files and changes none, and
        // nobody else writes into its folder. The engine itself refuses what was made by another version or for other
        // settings.
        let component = unsafe { Component::deserialize_file(engine, same) }.map_err(anyhow::Error::from)?;
        let ready = linker.instantiate_pre(&component).map_err(anyhow::Error::from)?;
        TextPre::new(ready).map_err(anyhow::Error::from)
    }
}

// === impl Interpreters ===

impl Interpreters {
    /// Those of a folder; nothing is read yet.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, python: Mutex::new(None), javascript: Mutex::new(None) }
    }

    /// The interpreter, loaded now where it is not yet. Reads tens of megabytes the first time.
    fn get(
        &self,
        language: Language,
        engine: &Engine,
        linker: &Linker<Scene>,
    ) -> Result<TextPre<Scene>, Refusal> {
        let mut place = match language {
            Language::Python => self.python.lock(),
            Language::JavaScript => self.javascript.lock(),
        };
        if let Some(interpreter) = place.as_ref() {
            return Ok(interpreter.clone());
        }
        let interpreter = language.load(engine, linker, &self.folder).map_err(|error| {
            tracing::warn!(
                language = language.name(),
                error = format!("{error:#}"),
                "There is no interpreter, so text functions of this language are refused."
            );
            Refusal::NoInterpreter(language.name())
        })?;
        Ok(place.insert(interpreter).clone())
    }
}

// === impl Text ===

impl Text {
    /// The interpreter's code.
    pub(super) fn component(&self) -> &Component {
        self.interpreter.instance_pre().component()
    }

    fn store(&self, engine: &Engine, limits: Limits, reach: Reach) -> Store<Scene> {
        let wasi = standard_streams_to_log(&reach);
        let memory_bytes = limits.memory_bytes.saturating_add(engine::INTERPRETER_BYTES);
        let roomy = Limits { memory_bytes, ..limits };
        context::store(engine, Scene::new(wasi, reach, roomy), roomy)
    }

    /// An instance of the interpreter. What it has from its begin is not the function's memory: that counts from here.
    async fn begin(&self, store: &mut Store<Scene>, limits: Limits) -> wasmtime::Result<Interpreter> {
        let interpreter = self.interpreter.instantiate_async(&mut *store).await?;
        store.data_mut().limiter.allow_more(limits.memory_bytes);
        Ok(interpreter)
    }

    /// Runs the text outside its handler, with nothing to reach.
    async fn check(&self, engine: &Engine, memory_bytes: usize) -> Result<(), Refusal> {
        let limits = Limits { time_ms: CHECK_MS, memory_bytes, output_bytes: CHECK_OUTPUT };
        let file = format!("function.{}", self.language.extension());
        let mut store = self.store(engine, limits, Reach::nothing());
        let verdict = within(&mut store, limits, async |store| {
            let interpreter = self.begin(store, limits).await?;
            interpreter.shunt_functions_interpreter().call_check(store, &file, &self.source).await
        })
        .await;
        match verdict {
            Ok(Ok(())) => Ok(()),
            Ok(Err(account)) => Err(Refusal::Text(shortened(account))),
            Err(error @ (CallError::Busy | CallError::Full | CallError::Stopped)) => {
                Err(Refusal::Host(error.to_string()))
            }
            Err(error) => Err(Refusal::Text(format!("the text outside its handler was run, and {error}"))),
        }
    }
}

// === impl HostInner ===

impl HostInner {
    fn interpreter(&self, language: Language) -> Result<TextPre<Scene>, Refusal> {
        self.interpreters.get(language, &self.engine, &self.components)
    }

    /// Runs the text outside its handler, where one of the places for that is free soon.
    async fn check(&self, text: &Text) -> Result<(), Refusal> {
        let wanted = text.component().resources_required().map_or(1, |required| required.num_memories.max(1));
        let place = Arc::clone(&self.spare).acquire_many_owned(wanted);
        let Ok(Ok(_place)) = tokio::time::timeout(CHECK_WAIT, place).await else {
            return Err(Refusal::Host("too many texts and state stores wait for a place".to_owned()));
        };
        text.check(&self.engine, self.options.memory_bytes).await
    }
}

// === impl Host ===

impl Host {
    /// Loads the interpreters that are there, on a thread of its own, so that the first install need not.
    pub(super) fn load_interpreters(&self) -> std::io::Result<()> {
        let host = Arc::clone(&self.0);
        let load = move || {
            let compiled = compiled_folder(&host.options.interpreters, &host.engine);
            for language in Language::ALL.into_iter().filter(|language| language.files(&compiled).1.is_file())
            {
                // What is wrong is told when a function wants it.
                host.interpreter(language).ok();
            }
        };
        std::thread::Builder::new().name("interpreters".to_owned()).spawn(load).map(drop)
    }

    /// Makes a text ready to be called: runs it once outside its handler. Takes milliseconds, at most [`CHECK_MS`] and
    /// some; call it on a thread for heavy work.
    pub(super) fn prepare_text(&self, bytes: &Bytes, digest: &str, kind: Kind) -> Result<Guest, Refusal> {
        let language = Language::of(kind).ok_or(Refusal::Exports)?;
        let source = std::str::from_utf8(bytes).map_err(|error| {
            Refusal::Text(format!("it is not UTF-8: see its byte {}", error.valid_up_to()))
        })?;
        let source = source.strip_prefix('\u{feff}').unwrap_or(source);
        let text = Text { language, interpreter: self.0.interpreter(language)?, source: source.into() };
        let checked = format!("checked as {}", kind.as_str());
        if self.0.cache.get(digest).is_some_and(|kept| kept == checked.as_bytes()) {
            return Ok(Guest::new(kind, Code::Text(text)));
        }
        let (tell, told) = mpsc::sync_channel(1);
        let host = Arc::clone(&self.0);
        let work = self.0.workers.run(async move {
            let _ticking = host.clock.ticking();
            let verdict = host.check(&text).await;
            // It is full never: one is sent. Nobody listens any more: then nobody wants the function.
            tell.send(verdict.map(|()| text)).ok();
        });
        let text = match work {
            Some(_work) => {
                told.recv().unwrap_or(Err(Refusal::Host("the host is being stopped".to_owned())))?
            }
            None => return Err(Refusal::Host("the host has no threads".to_owned())),
        };
        // At the next start it need not be run.
        self.0.cache.put(digest, checked.as_bytes());
        Ok(Guest::new(kind, Code::Text(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::prepare::Counter, *};

    #[test]
    fn code_that_was_compiled_ahead_is_looked_for_where_it_was_written() {
        let folder = Path::new("interpreters");
        let options = super::super::HostOptions {
            workers: 1,
            calls: 2,
            queue: 1,
            memory_bytes: 64 << 20,
            compiled: PathBuf::new(),
            interpreters: folder.to_owned(),
        };
        let ahead = compiled_folder(folder, &engine::compiling().unwrap());
        assert_eq!(compiled_folder(folder, &engine::engine(&options, Counter::new()).unwrap()), ahead);
    }

    #[test]
    fn only_so_many_headers_are_taken_of_an_answer() {
        let answered = |number: usize, value: &str| Answered {
            status: 200,
            headers: (0..number).map(|number| (format!("x-{number}"), value.to_owned())).collect(),
            content_type: String::new(),
            body: Vec::new(),
        };
        assert_eq!(answer(answered(HEADERS, "1")).unwrap().headers.len(), HEADERS);
        for too_much in
            [answered(HEADERS + 1, "1"), answered(40_000, ""), answered(1, &"x".repeat(HEADER_BYTES))]
        {
            let said = answer(too_much).unwrap_err().to_string();
            assert!(said.contains("headers"), "{said}");
        }
    }
}
