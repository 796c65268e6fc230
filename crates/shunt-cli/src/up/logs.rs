//! The output of the processes: into a file each, and what a person must see onto the board.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
};

use super::board::Board;

/// The largest log file; when it is full it is put aside as `<name>.log.1`, over the one before.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Everything starts at once, so what a process misses in its first moments is no news; its log has it.
const STARTING: Duration = Duration::from_secs(2);
/// How a module begins to tell that it finds no bus.
const BUS_IS_AWAY: &str = "The bus is not there";
/// The longest line that is kept whole.
const MAX_LINE: usize = 16 * 1024;

/// A log file that puts itself aside when it is full.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

// === impl LogFile ===

impl LogFile {
    async fn open(path: PathBuf) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(&path).await?;
        let bytes = file.metadata().await?.len();
        Ok(Self { path, file, bytes })
    }

    async fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.bytes + line.len() as u64 > MAX_BYTES {
            tokio::fs::rename(&self.path, self.path.with_extension("log.1")).await?;
            *self = Self::open(self.path.clone()).await?;
        }
        self.bytes += line.len() as u64;
        self.file.write_all(line).await
    }
}

/// Follows an output until it ends. A disk that is full costs the log, not the chain.
pub(crate) async fn follow(output: impl AsyncRead + Unpin, name: String, folder: PathBuf, board: Board) {
    let mut log = LogFile::open(folder.join(format!("{name}.log"))).await.ok();
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    let begin = Instant::now();
    loop {
        line.clear();
        // A line without end is cut: what a program prints is not trusted to be lines.
        match tokio::io::AsyncReadExt::take(&mut lines, MAX_LINE as u64).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Some(file) = &mut log
            && let Err(error) = file.write(&line).await
        {
            board.say(format!("the log of {name} ends here: {error}"));
            log = None;
        }
        let news = worth_telling(&String::from_utf8_lossy(&line));
        let is_expected = |news: &String| {
            let between = begin.elapsed() < STARTING || board.read(|state| state.stopping);
            between && news.starts_with(BUS_IS_AWAY)
        };
        if let Some(news) = news.filter(|news| !is_expected(news)) {
            board.say(format!("{name}: {news}"));
        }
    }
}

/// What a person must see of a line: warnings and errors, in words.
fn worth_telling(line: &str) -> Option<String> {
    let line = line.trim();
    if line.is_empty() {
        return None;
    }
    let Ok(Value::Object(event)) = serde_json::from_str(line) else {
        // Mosquitto, a panic, the message of a program that never came to its logging.
        let plain = ["rror", "panicked", "refused", "unable", "denied", "shunt:", "not allowed"];
        return plain.iter().any(|word| line.contains(word)).then(|| line.to_owned());
    };
    let level = event.get("level").and_then(Value::as_str)?;
    if !matches!(level, "WARN" | "ERROR") {
        return None;
    }
    let fields = event.get("fields").and_then(Value::as_object).unwrap_or(&event);
    let mut text = fields.get("message").and_then(Value::as_str).unwrap_or("(no message)").to_owned();
    for (name, value) in fields {
        if ["message", "level", "target", "timestamp", "span", "spans"].contains(&name.as_str()) {
            continue;
        }
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.extend([" ", name, "=", &value]);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_in_words() {
        let line = r#"{"timestamp":"x","level":"WARN","fields":{"message":"The source failed.","source":"/x"},"target":"camera"}"#;
        assert_eq!(worth_telling(line).unwrap(), "The source failed. source=/x");
        assert_eq!(worth_telling(&line.replace("WARN", "INFO")), None);
        assert!(worth_telling("Error: Address already in use").is_some());
        assert_eq!(worth_telling("1700000000: mosquitto version 2.0.11 running"), None);
    }
}
