//! The plugin, as container runtimes call it: CNI 1.0.0 and its neighbours, in a chain behind the plugin that makes the
//! network, whose result it passes on.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

use super::SOCKET;
use super::protocol::{self, Command, Question};
use crate::config::Environment;

const VERSIONS: [&str; 8] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.2.0"];
const MAXIMUM_CONFIGURATION: u64 = 16 << 20;
/// How the pods of the node agent are named: they must start without it.
const AGENT_PODS: [&str; 2] = ["istio-cni-node", "lateen-cni"];

/// The specification's error codes.
const BAD_ENVIRONMENT: u32 = 4;
const INPUT: u32 = 5;
const DECODING: u32 = 6;
const BAD_CONFIGURATION: u32 = 7;
const TRY_AGAIN: u32 = 11;
const UNAVAILABLE: u32 = 50;

/// The plugin's entry in the network's configuration.
#[derive(Debug, Deserialize)]
struct Configuration {
    #[serde(rename = "cniVersion", default)]
    cni_version: String,
    #[serde(rename = "prevResult")]
    previous: Option<Value>,
    #[serde(default = "run_dir")]
    cni_agent_run_dir: PathBuf,
    #[serde(default)]
    exclude_namespaces: Vec<String>,
    #[serde(default)]
    pod_namespace: String,
}

fn run_dir() -> PathBuf {
    "/var/run/istio-cni".into()
}

/// An error as the runtime is told it.
#[derive(Debug)]
struct Failure {
    code: u32,
    message: String,
}

impl Failure {
    fn new(code: u32, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }
}

/// Runs the plugin.
pub(crate) fn main(environment: &Environment) -> ExitCode {
    let mut text = String::new();
    let read = std::io::stdin().take(MAXIMUM_CONFIGURATION).read_to_string(&mut text);
    let result = match read {
        Ok(_) => answer(environment, &text),
        Err(error) => Err(Failure::new(INPUT, format!("standard input: {error}"))),
    };
    match result {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(value)) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Err(Failure { code, message }) => {
            let version = serde_json::from_str::<Configuration>(&text).map(|configuration| configuration.cni_version);
            println!(
                "{}",
                json!({ "cniVersion": version.unwrap_or_default(), "code": code, "msg": message })
            );
            ExitCode::FAILURE
        }
    }
}

fn answer(environment: &Environment, text: &str) -> Result<Option<Value>, Failure> {
    let command = environment
        .get("CNI_COMMAND")
        .ok_or_else(|| Failure::new(BAD_ENVIRONMENT, "CNI_COMMAND is not set"))?;
    let configuration = || -> Result<Configuration, Failure> {
        let configuration: Configuration = serde_json::from_str(text)
            .map_err(|error| Failure::new(DECODING, format!("network configuration: {error}")))?;
        let version = &configuration.cni_version;
        if !version.is_empty() && !VERSIONS.contains(&version.as_str()) {
            let known = VERSIONS.join(", ");
            return Err(Failure::new(1, format!("cniVersion `{version}` is none of {known}")));
        }
        Ok(configuration)
    };
    match command {
        "VERSION" => Ok(Some(json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS }))),
        "ADD" => add(&configuration()?, environment).map(Some),
        "CHECK" => check(&configuration()?, environment).map(|()| None),
        // The rules go with the network namespace, and nothing else is kept.
        "DEL" | "GC" => configuration().map(|_| None),
        "STATUS" => status(&configuration()?).map(|()| None),
        other => Err(Failure::new(
            BAD_ENVIRONMENT,
            format!("CNI_COMMAND `{other}`: must be ADD, DEL, CHECK, VERSION, GC or STATUS"),
        )),
    }
}

/// The pod that is meant, and its network namespace.
struct Pod {
    namespace: String,
    name: String,
    network: File,
}

/// None when it is no pod of Kubernetes, or one that is left alone.
fn pod(configuration: &Configuration, environment: &Environment) -> Result<Option<Pod>, Failure> {
    let arguments = environment.get("CNI_ARGS").unwrap_or_default();
    let argument = |key: &str| {
        let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(name, _)| *name == key);
        found.next().map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let (namespace, name) = (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME"));
    if namespace.is_empty() || name.is_empty() || configuration.exclude_namespaces.contains(&namespace) {
        return Ok(None);
    }
    let path = environment
        .get("CNI_NETNS")
        .ok_or_else(|| Failure::new(BAD_ENVIRONMENT, "CNI_NETNS is not set"))?;
    let network = File::open(path).map_err(|error| Failure::new(INPUT, format!("CNI_NETNS {path}: {error}")))?;
    Ok(Some(Pod {
        namespace,
        name,
        network,
    }))
}

fn ask(configuration: &Configuration, pod: &Pod, command: Command) -> anyhow::Result<()> {
    let question = Question {
        command,
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
    };
    protocol::ask(
        &socket(&configuration.cni_agent_run_dir),
        &question,
        Some(pod.network.as_fd()),
    )
}

fn socket(folder: &Path) -> PathBuf {
    folder.join(SOCKET)
}

fn add(configuration: &Configuration, environment: &Environment) -> Result<Value, Failure> {
    // Alone, there is nothing to pass on.
    let result = configuration
        .previous
        .clone()
        .unwrap_or_else(|| json!({ "cniVersion": configuration.cni_version }));
    let Some(pod) = pod(configuration, environment)? else {
        return Ok(result);
    };
    if let Err(error) = ask(configuration, &pod, Command::Add) {
        let of_agent =
            pod.namespace == configuration.pod_namespace && AGENT_PODS.iter().any(|name| pod.name.starts_with(name));
        if !of_agent {
            let message = format!("pod {}/{}: {error:#}", pod.namespace, pod.name);
            return Err(Failure::new(TRY_AGAIN, message));
        }
    }
    Ok(result)
}

fn check(configuration: &Configuration, environment: &Environment) -> Result<(), Failure> {
    if configuration.previous.is_none() {
        return Err(Failure::new(BAD_CONFIGURATION, "CHECK needs prevResult"));
    }
    let Some(pod) = pod(configuration, environment)? else {
        return Ok(());
    };
    ask(configuration, &pod, Command::Check)
        .map_err(|error| Failure::new(100, format!("pod {}/{}: {error:#}", pod.namespace, pod.name)))
}

fn status(configuration: &Configuration) -> Result<(), Failure> {
    let question = Question {
        command: Command::Status,
        namespace: String::new(),
        pod: String::new(),
    };
    let asked = protocol::ask(&socket(&configuration.cni_agent_run_dir), &question, None);
    asked.map_err(|error| Failure::new(UNAVAILABLE, format!("{error:#}")))
}
