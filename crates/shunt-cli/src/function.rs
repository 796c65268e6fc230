//! `shunt function`: installs, lists, calls and removes functions of the module `functions`, reads their logs, and
//! begins new ones.

mod door;
mod grants;
mod install;
mod invoke;
mod list;
mod logs;
mod new;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use crate::{
    chain::{self, Chain},
    output,
    up::ports,
};
use door::Door;

/// Install, list, call and remove functions: small programs that the module `functions` runs on the device.
#[derive(Debug, Args)]
pub(crate) struct Function {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Install(install::Install),
    List(list::List),
    Invoke(invoke::Invoke),
    Remove(Remove),
    Logs(logs::Logs),
    New(new::New),
}

/// Remove a function.
#[derive(Debug, Args)]
struct Remove {
    /// Its name.
    name: String,
    #[command(flatten)]
    place: Place,
}

/// Where the module is, and what opens its management.
#[derive(Debug, Args)]
struct Place {
    /// Its address [default: that of the chain that runs, else http://127.0.0.1:8080].
    #[arg(long, value_name = "URL", env = "SHUNT_FUNCTIONS_URL")]
    url: Option<String>,
    /// What its setting `token` says; needed where it listens beyond loopback.
    #[arg(long, value_name = "TOKEN", env = "SHUNT_FUNCTIONS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The folder of the chain.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

// === impl Function ===

impl Function {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Install(install) => install.run().await?,
            What::List(list) => list.run().await?,
            What::Invoke(invoke) => invoke.run().await?,
            What::Remove(remove) => remove.run().await?,
            What::Logs(logs) => logs.run().await?,
            What::New(new) => new.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl Remove ===

impl Remove {
    async fn run(self) -> anyhow::Result<()> {
        let door = self.place.door()?;
        door.delete(&["functions", &self.name]).await?;
        output::line(format_args!("{} is removed", self.name))
    }
}

// === impl Place ===

impl Place {
    fn door(self) -> anyhow::Result<Door> {
        Door::new(&self.address(), self.token)
    }

    fn address(&self) -> String {
        if let Some(url) = &self.url {
            return url.clone();
        }
        let folder = self.folder.clone().unwrap_or_else(chain::default_folder);
        let of_chain = || Chain::read(&folder).ok()?.processes.get("functions")?.address.clone();
        // A module that somebody else started listens on its usual port.
        let usual = || format!("127.0.0.1:{}", ports::usual("functions").unwrap_or(8080));
        format!("http://{}", of_chain().unwrap_or_else(usual))
    }
}
