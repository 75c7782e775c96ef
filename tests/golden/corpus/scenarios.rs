//! The scenarios, and what is rendered of them, once for all tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::{env, fs, thread};

use lateen_cli::render::{Inputs, World, render, write_json};

/// One scenario.
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    /// Files with the Nodes that proxies sent.
    pub(crate) nodes: Vec<PathBuf>,
}

/// What all scenarios give.
pub(crate) struct Rendered {
    pub(crate) reference: PathBuf,
    /// A folder for each scenario, in the form of the reference data.
    pub(crate) directory: PathBuf,
    pub(crate) scenarios: Vec<Scenario>,
}

/// Renders every scenario, the first time. `None` without reference data.
pub(crate) fn rendered() -> Option<&'static Rendered> {
    static RENDERED: OnceLock<Option<Rendered>> = OnceLock::new();
    RENDERED
        .get_or_init(|| env::var_os("LATEEN_REFERENCE").map(|reference| render_all(Path::new(&reference))))
        .as_ref()
}

fn render_all(reference: &Path) -> Rendered {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("golden-corpus");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let scenarios = scenarios(&reference.join("corpus"));
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = render_one(scenario, &directory.join(&scenario.name)) {
                        failures.lock().unwrap().push(format!("{}: {error:#}", scenario.name));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "scenarios that cannot be rendered: {failures:#?}");
    Rendered {
        reference: reference.to_owned(),
        directory,
        scenarios,
    }
}

fn scenarios(corpus: &Path) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = files(corpus)
        .into_iter()
        .filter(|directory| directory.join("input.yaml").exists())
        .map(|directory| {
            let nodes = files(&directory.join("expected"));
            Scenario {
                name: directory.file_name().unwrap().to_str().unwrap().to_owned(),
                nodes: nodes
                    .into_iter()
                    .filter(|path| path.to_string_lossy().ends_with(".node.json"))
                    .collect(),
                directory,
            }
        })
        .collect();
    assert!(!scenarios.is_empty(), "there are no scenarios in {}", corpus.display());
    scenarios.sort_by(|a, b| a.name.cmp(&b.name));
    scenarios
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn render_one(scenario: &Scenario, output: &Path) -> anyhow::Result<()> {
    let optional = |name: &str| Some(scenario.directory.join(name)).filter(|path| path.exists());
    let settings = optional("scenario.yaml")
        .map(|path| fs::read_to_string(path).unwrap())
        .unwrap_or_default();
    let settings: serde_yaml::Value = serde_yaml::from_str(&settings)?;
    let remote_clusters = files(&scenario.directory).into_iter().filter_map(|path| {
        let id = path
            .file_name()?
            .to_str()?
            .strip_prefix("cluster-")?
            .strip_suffix(".yaml")?;
        Some((id.parse().unwrap(), path.clone()))
    });
    let world = World::load(&Inputs {
        files: vec![scenario.directory.join("input.yaml")],
        mesh_config: optional("mesh.yaml"),
        mesh_networks: optional("meshNetworks.yaml"),
        environment: optional("env.yaml"),
        keep_rejected: settings
            .get("keepRejected")
            .and_then(serde_yaml::Value::as_bool)
            .unwrap_or_default(),
        remote_clusters: remote_clusters.collect(),
    })?;
    fs::create_dir_all(output)?;
    for node in &scenario.nodes {
        let proxy = world.proxy_of_node_file(node)?;
        render(world.snapshot(), &proxy)?.write(output)?;
    }
    write_json(&output.join("validation.json"), world.validation())
}
