//! `shunt function` against the module itself.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use shunt_testkit::{binary, eventually, fresh_address, repo_root};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_mins(2);

/// The module as a process of its own, on a fresh port and folder.
struct Module {
    child: Child,
    url: String,
    folder: TempDir,
}

// === impl Module ===

impl Module {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = fresh_address().unwrap();
        let child = Command::new(binary("functions"))
            .env_clear()
            .env("SHUNT_HTTP_LISTEN", address.to_string())
            .env("SHUNT_DATA_DIR", folder.path())
            .env("SHUNT_BUS_URL", format!("mqtt://{}", fresh_address().unwrap()))
            .env("SHUNT_INTERPRETERS_DIR", repo_root().join(".shunt/interpreters"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let module = Self { child, url: format!("http://{address}"), folder };
        eventually(LIMIT, || async { module.call(&["list"]).status.success() }).await;
        module
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let (what, rest) = arguments.split_first().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
        command.args(["function", what, "--url", &self.url]).args(rest).output().unwrap()
    }

    /// What a call that must go well prints.
    fn well(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a call that must fail says.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn built(name: &str) -> String {
    repo_root().join("functions/builds").join(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_function_is_installed_listed_called_and_removed_by_the_command() {
    let module = Module::start().await;
    let told = module.well(&["install", &built("average.wasm"), "--grant", "state=seen", "--time-ms", "500"]);
    assert!(told.starts_with("average is installed: function, "), "{told}");
    assert_eq!(module.well(&["invoke", "average", "0,1,1"]), "0.666666666667");
    assert_eq!(module.well(&["invoke", "average", "-1"]), "-1.0");
    let numbers = module.folder.path().join("numbers.txt");
    std::fs::write(&numbers, "4,6").unwrap();
    let answer = module.folder.path().join("answer");
    let printed = module.well(&[
        "invoke",
        "average",
        &format!("@{}", numbers.display()),
        "--out",
        answer.to_str().unwrap(),
    ]);
    assert_eq!((printed.as_str(), std::fs::read_to_string(answer).unwrap().as_str()), ("", "5.0"));

    let list = module.well(&["list"]);
    let line = list.lines().find(|line| line.starts_with("average")).unwrap();
    assert!(line.contains("state=seen") && list.contains("echo"), "{list}");
    let list: serde_json::Value = serde_json::from_str(&module.well(&["list", "--json"])).unwrap();
    let entry = list.as_array().unwrap().iter().find(|entry| entry["name"] == "average").unwrap();
    assert_eq!(
        (entry["calls"].as_u64(), entry["limits"]["time_ms"].as_u64()),
        (Some(3), Some(500)),
        "{entry}"
    );

    assert_eq!(module.well(&["remove", "average"]), "average is removed\n");
    let gone = module.refused(&["invoke", "average", "1"]);
    assert!(gone.contains("no function \"average\""), "{gone}");
    let echo = module.refused(&["remove", "echo"]);
    assert!(echo.contains("echo"), "{echo}");
}

#[tokio::test]
async fn what_cannot_be_installed_is_refused_in_the_modules_words() {
    let module = Module::start().await;
    let file = built("average.wasm");
    let wrong = module.refused(&["install", &file, "--sha256", &"0".repeat(64)]);
    assert!(wrong.contains("it is not sent"), "{wrong}");
    let cut = module.folder.path().join("cut.wasm");
    std::fs::write(&cut, &std::fs::read(&file).unwrap()[..1000]).unwrap();
    let said = module.refused(&["install", cut.to_str().unwrap()]);
    assert!(said.starts_with("shunt: it "), "{said}");
    let missing = module.refused(&["install", "/no/such/file.wasm"]);
    assert!(missing.contains("/no/such/file.wasm"), "{missing}");
    let name = module.refused(&["install", &file, "--name", "../etc"]);
    assert!(name.contains("not the name of a function"), "{name}");
    let grant = module.call(&["install", &file, "--grant", "files=/"]);
    assert_eq!(grant.status.code(), Some(2));
    let nobody = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .args(["function", "list", "--url", &format!("http://{}", fresh_address().unwrap())])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8(nobody.stderr).unwrap().contains("no answer from http://127.0.0.1"));
    assert!(!module.well(&["list"]).contains("average"));
}

/// Runs a tool in the folder of a project; nothing where the tool or what it needs is not there.
fn run(folder: &Path, program: &str, arguments: &[&str], is_there: bool) -> Option<()> {
    if !is_there {
        println!("passed over: {program} or what it needs is not installed");
        return None;
    }
    let made = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{program}: {}", String::from_utf8_lossy(&made.stderr));
    Some(())
}

fn has_rust_target() -> bool {
    let Ok(sysroot) = Command::new("rustc").args(["--print", "sysroot"]).output() else { return false };
    let sysroot = String::from_utf8(sysroot.stdout).unwrap();
    Path::new(sysroot.trim()).join("lib/rustlib/wasm32-wasip2").is_dir()
}

fn has_c_compiler() -> bool {
    Path::new("/usr/lib/wasm32-wasi/libc.a").is_file()
        && Path::new("/usr/lib/llvm-14/lib/clang/14.0.6/lib/wasi/libclang_rt.builtins-wasm32.a").is_file()
        && Command::new("wasm-ld-14").arg("--version").output().is_ok()
}

/// Makes a project, lets its tools build it, installs it and calls it.
async fn begin(language: &str, file: &str, build: impl Fn(&Path) -> Option<()>) {
    let module = Module::start().await;
    let within = module.folder.path().to_str().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .args(["function", "new", "--lang", language, "my-own", "--within", within])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let folder = module.folder.path().join("my-own");
    if build(&folder).is_none() {
        return;
    }
    let file = folder.join(file);
    module.well(&["install", file.to_str().unwrap(), "--name", "my-own"]);
    assert_eq!(module.well(&["invoke", "my-own", "World"]), "Hello, World!\n");
    let said = module.well(&["logs", "my-own"]);
    assert!(said.contains("called"), "{said:?}");
}

#[tokio::test]
async fn a_project_in_rust_builds_with_cargo_and_runs() {
    begin("rust", "target/wasm32-wasip2/release/my_own.wasm", |folder| {
        let arguments = ["build", "--release", "--target", "wasm32-wasip2", "--target-dir", "target"];
        run(folder, "cargo", &arguments, has_rust_target())
    })
    .await;
}

#[tokio::test]
async fn a_project_in_c_builds_with_make_and_runs() {
    begin("c", "my-own.wasm", |folder| run(folder, "make", &[], has_c_compiler())).await;
}

/// Makes the interpreter of this language ready, if it was built. Where everything is to be tested it must be.
fn interprets(language: &str) -> bool {
    let folder = repo_root().join(".shunt/interpreters");
    if !folder.join(format!("{language}.wasm")).is_file() {
        assert!(std::env::var_os("CI").is_none(), "the interpreter for {language} is missing: scripts/setup");
        println!("passed over: there is no interpreter for {language}");
        return false;
    }
    let made = Command::new(binary("functions")).arg("compile-interpreters").arg(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    true
}

#[tokio::test]
async fn a_project_in_python_runs_as_it_is() {
    if interprets("python") {
        begin("python", "my-own.py", |_| Some(())).await;
    }
}

#[tokio::test]
async fn a_project_in_javascript_runs_as_it_is() {
    if interprets("javascript") {
        begin("js", "my-own.js", |_| Some(())).await;
    }
}
