//! What the module twin installs: fetched, kept as it says, and removed when it says nothing of it any more.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Install, InstallError, Library, Source};
use crate::{
    fetch::{self, Fetcher, Hosts},
    name::FunctionName,
};

/// After the first failure, and at the most, it is tried again so much later.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// A function that the settings want installed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    url: String,
    /// Hex sha256 in small letters.
    digest: String,
}

/// How installing one went so far.
#[derive(Debug)]
struct Attempts {
    failures: u32,
    /// When it is tried next; never, where trying again would change nothing.
    next: Option<Instant>,
}

// === impl Library ===

impl Library {
    /// Keeps what is installed as the settings say, for ever. `changed` tells of new settings, and of the wish to try
    /// all again at once.
    pub(crate) async fn follow_twin(&self, fetcher: Fetcher, mut changed: watch::Receiver<()>) {
        loop {
            changed.borrow_and_update();
            self.remove_unwanted().await;
            let mut attempts = BTreeMap::new();
            self.0.troubles.lock().clear();
            self.tell();
            tokio::select! {
                () = self.install_wanted(&fetcher, &mut attempts) => {}
                told = changed.changed() => if told.is_err() { return },
            }
        }
    }

    /// Never ends.
    async fn install_wanted(&self, fetcher: &Fetcher, attempts: &mut BTreeMap<FunctionName, Attempts>) {
        loop {
            let wanted = self.wanted();
            let now = Instant::now();
            let due = |name: &FunctionName| {
                attempts.get(name).map_or(Some(now), |attempts: &Attempts| attempts.next)
            };
            let next = wanted.into_iter().filter_map(|(name, wanted)| Some((due(&name)?, name, wanted)));
            let Some((at, name, wanted)) = next.min_by_key(|(at, _, _)| *at) else {
                return std::future::pending().await;
            };
            sleep_until(at).await;
            match self.install_one(fetcher, &name, &wanted).await {
                Ok(()) => {
                    attempts.remove(&name);
                    self.0.troubles.lock().remove(&name);
                }
                Err((reason, again)) => {
                    tracing::warn!(function = %name, reason, again, "The module twin's function is not installed.");
                    self.0.troubles.lock().insert(name.clone(), reason);
                    let failures = attempts.get(&name).map_or(0, |attempts| attempts.failures);
                    let pause = PAUSES.0.saturating_mul(2_u32.saturating_pow(failures)).min(PAUSES.1);
                    let next = again.then(|| Instant::now() + pause);
                    attempts.insert(name, Attempts { failures: failures.saturating_add(1), next });
                }
            }
            self.tell();
        }
    }

    /// What is to be installed and is not.
    fn wanted(&self) -> Vec<(FunctionName, Wanted)> {
        let settings = self.settings();
        let wanted = settings.functions.iter().filter_map(|(name, said)| {
            let (url, digest) = said.from_address()?;
            let name: FunctionName = name.parse().ok()?;
            let there = self.get(name.as_str()).is_some_and(|function| {
                // One whose file is damaged is fetched anew.
                function.record.digest == digest
                    && function.record.source == Source::Twin
                    && function.error().is_none()
            });
            (!there).then(|| (name, Wanted { url: url.to_owned(), digest }))
        });
        wanted.collect()
    }

    /// Installs it; else says why not, and whether trying again may help.
    async fn install_one(
        &self,
        fetcher: &Fetcher,
        name: &FunctionName,
        wanted: &Wanted,
    ) -> Result<(), (String, bool)> {
        let failed = |error: InstallError| {
            let again = matches!(
                error,
                InstallError::Busy
                    | InstallError::Disk(_)
                    | InstallError::Ended(_)
                    | InstallError::Digest { .. }
                    | InstallError::TooMany(_)
            );
            (error.to_string(), again)
        };
        let place = self.place(name, Source::Twin).map_err(failed)?;
        let same = self.get(name.as_str()).filter(|function| function.record.digest == wanted.digest);
        let kept = match same {
            // Somebody installed the same file before the twin spoke of it.
            Some(function) => self.content(&function).await.ok(),
            None => None,
        };
        let bytes = match kept {
            Some(bytes) => bytes,
            None => {
                // The digest says what it must be, whoever gives it.
                let fetched = fetcher.fetch(&wanted.url, Hosts::Any, self.settings().fetch_limits()).await;
                fetched.map_err(|error| (error.to_string(), true))?
            }
        };
        let file = fetch::file_name(&wanted.url).unwrap_or_default();
        let mut install = Install::of_file(name.clone(), file, bytes);
        install.digest = Some(wanted.digest.clone());
        install.source = Source::Twin;
        self.install(place, install, std::sync::Arc::new(|_| ())).await.map_err(failed)?;
        Ok(())
    }

    /// Removes what the twin installed and does not speak of any more.
    async fn remove_unwanted(&self) {
        let settings = self.settings();
        for function in self.list() {
            let name = &function.record.name;
            let wanted = settings.of(name).is_some_and(|said| said.url.is_some());
            if function.record.source == Source::Twin
                && !wanted
                && let Err(error) = self.remove(name, Source::Twin).await
            {
                tracing::error!(function = %name, %error, "A function that the module twin took away cannot be removed.");
            }
        }
    }
}
