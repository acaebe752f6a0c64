//! `fleetdrain link`: a token, or a whole URL, that lets its holder read a little for a while.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;

use super::{
    Exit, Failure,
    client::{Query, Target, encode},
    print,
};
use crate::{
    collector::MACHINE_ID_BYTES_MAX,
    config::{
        Flag, Loader,
        value::{duration, format_duration},
    },
    grant::{Grant, TTL_MAX},
};

pub(super) const EXAMPLES: &str = "\
The token goes behind Authorization: Bearer, into FLEETDRAIN_TOKEN, or into a
URL as ?access_token=. Whoever has it reads what it is for until it ends; only a
new signing key ends it sooner.

Examples:
  fleetdrain link -m 4d891d77b05118 --key-file keys --ttl 15m
  fleetdrain link -a my-app --streams stdout,stderr --url https://drain.example";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For this machine; may be repeated
    #[arg(short, long, value_name = "ID", required_unless_present = "app", conflicts_with = "app", value_parser = read_machine)]
    machine: Vec<String>,
    /// For all machines of this app; may be repeated
    #[arg(short, long, value_name = "NAME")]
    app: Vec<String>,
    /// Only these streams, a list of stdout, stderr and system [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = ["stdout", "stderr", "system"], hide_possible_values = true)]
    streams: Option<Vec<String>>,
    /// How long it is good, at most 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = read_ttl)]
    ttl: Duration,
    /// The keys, of which the first signs, instead of the configuration's control.signing_key_file
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Configuration file, see `fleetdrain config`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The drain's control listener as the holder reaches it: prints a whole URL too
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

fn read_machine(text: &str) -> Result<String, String> {
    match text.len() {
        1..=MACHINE_ID_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err(format!("a machine id has 1 to {MACHINE_ID_BYTES_MAX} bytes, not {bytes}")),
    }
}

fn read_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text).ok_or("not a duration such as 15m, 1h or 7d")?;
    // A token counts whole seconds.
    let range = Duration::from_secs(1)..=TTL_MAX;
    if range.contains(&ttl) { Ok(ttl) } else { Err(format!("not between 1s and {}", format_duration(TTL_MAX))) }
}

impl Args {
    /// Where the holder of `token` reads: one machine, or all that the link is for.
    fn url(&self, target: &Target, token: &str) -> String {
        let path = match self.machine.as_slice() {
            [machine] => format!("/api/v1/machines/{}/logs", encode(machine)),
            _ => "/api/v1/tail".to_owned(),
        };
        let mut query = Query::new(path);
        query.push("access_token", token);
        format!("{target}{}", query.into_path())
    }
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let target = args.url.as_deref().map(Target::parse).transpose()?;
    let key_file = args.key_file.as_ref().map(|path| path.display().to_string());
    let flag = key_file.map(|value| Flag { name: "--key-file", key: "control.signing_key_file", value });
    let loaded = Loader { file: args.config.clone(), flags: flag.into_iter().collect() }.load()?;
    let expires = u64::try_from(Timestamp::now().as_second()).unwrap_or(0) + args.ttl.as_secs();
    let grant = Grant::new(expires, args.machine.clone(), args.app.clone(), args.streams.clone());
    let grant = grant.map_err(|error| Failure::Usage(error.to_string()))?;
    let token = loaded.config.control.signing_keys.sign(&grant).ok_or_else(|| {
        Failure::Usage("there is no key to sign with: --key-file FILE, or control.signing_key_file".to_owned())
    })?;
    let url = target.map(|target| args.url(&target, &token) + "\n");
    print(format!("{token}\n{}", url.unwrap_or_default()).as_bytes())
}
