//! The plugin's file and its entry in the node's CNI configuration: put there whole or not at all, put back when
//! somebody overwrites them, taken away at the end.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use super::{InstallArgs, PLUGIN};
use crate::files::{remove, replace};

/// The configuration that others name, where the plugin is not chained.
const STANDALONE: &str = "YYY-istio-cni.conf";
/// The version of configurations that are made new here.
const VERSION: &str = "0.3.1";
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// What is installed and where.
#[derive(Debug)]
pub(super) struct Installer {
    program: PathBuf,
    binary: PathBuf,
    folder: PathBuf,
    name: Option<String>,
    chained: bool,
    owned: Option<String>,
    mode: u32,
    entry: Value,
    /// The installed file as it was left.
    installed: Option<(u64, u64, i64, i64)>,
}

// === impl Installer ===

impl Installer {
    /// As the flags say.
    ///
    /// # Errors
    /// When this program's own file is not known.
    pub(super) fn new(args: &InstallArgs) -> anyhow::Result<Self> {
        let excluded: Vec<&str> = args.exclude_namespaces.split(',').map(str::trim).collect();
        let excluded: Vec<&str> = excluded.into_iter().filter(|name| !name.is_empty()).collect();
        Ok(Self {
            program: std::env::current_exe().context("this program's file")?,
            binary: args.mounted_cni_bin_dir.join(PLUGIN),
            folder: args.mounted_cni_net_dir.clone(),
            name: Some(args.cni_conf_name.clone()).filter(|name| !name.is_empty()),
            chained: args.chained_cni_plugin,
            owned: args
                .istio_owned_cni_config
                .then(|| args.istio_owned_cni_config_filename.clone()),
            mode: if args.cni_conf_group_read { 0o640 } else { 0o600 },
            entry: json!({
                "type": PLUGIN,
                "name": PLUGIN,
                "plugin_log_level": args.plugin_log_level,
                "cni_agent_run_dir": args.cni_agent_run_dir,
                "exclude_namespaces": excluded,
                "pod_namespace": args.pod_namespace,
            }),
            installed: None,
        })
    }

    /// Brings everything to what it should be. Returns whether something had to be changed.
    ///
    /// # Errors
    /// When a file cannot be written, or there is no network configuration yet.
    pub(super) fn ensure(&mut self) -> anyhow::Result<bool> {
        // The file first: a configuration that names a plugin that is not there stops every pod.
        let copied = self.ensure_binary()?;
        Ok(self.ensure_configuration()? || copied)
    }

    fn ensure_binary(&mut self) -> anyhow::Result<bool> {
        if self.installed.is_some() && fingerprint(&self.binary) == self.installed {
            return Ok(false);
        }
        let content = std::fs::read(&self.program).with_context(|| self.program.display().to_string())?;
        replace(&self.binary, &content, 0o755)?;
        self.installed = fingerprint(&self.binary);
        Ok(true)
    }

    fn ensure_configuration(&self) -> anyhow::Result<bool> {
        if !self.chained {
            let mut standalone = self.entry.clone();
            standalone["cniVersion"] = json!(VERSION);
            return self.put(&self.folder.join(STANDALONE), &standalone);
        }
        let (source, mut list) = self.source()?;
        put_entry(&mut list, Some(&self.entry));
        if let Some(name) = &self.owned {
            return self.put(&self.folder.join(name), &list);
        }
        if source.extension().is_some_and(|extension| extension == "conflist") {
            return self.put(&source, &list);
        }
        // A single plugin becomes a list, in a file that is called so.
        self.put(&source.with_extension("conflist"), &list)?;
        std::fs::remove_file(&source).with_context(|| source.display().to_string())?;
        Ok(true)
    }

    /// The network's own configuration, as a list: the one that is named, or the first that can be read, as runtimes
    /// choose it.
    fn source(&self) -> anyhow::Result<(PathBuf, Value)> {
        if let Some(name) = &self.name {
            let path = self.folder.join(name);
            // Made into a list by a former run.
            let list = path.with_extension("conflist");
            return match [path.clone(), list].into_iter().find(|path| path.is_file()) {
                Some(found) => as_list(read(&found)?, &found).map(|list| (found, list)),
                None => bail!("no network configuration {} yet", path.display()),
            };
        }
        let entries = std::fs::read_dir(&self.folder).with_context(|| self.folder.display().to_string())?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let ours = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name == STANDALONE || self.owned.as_deref() == Some(name)
        };
        let is_configuration = |path: &PathBuf| {
            let extension = path
                .extension()
                .and_then(|extension| extension.to_str())
                .unwrap_or_default();
            EXTENSIONS.contains(&extension) && !ours(path)
        };
        for path in paths.into_iter().filter(is_configuration) {
            match read(&path).and_then(|value| as_list(value, &path)) {
                Ok(list) => return Ok((path, list)),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "network configuration passed over"),
            }
        }
        bail!("no network configuration in {} yet", self.folder.display())
    }

    fn put(&self, path: &Path, value: &Value) -> anyhow::Result<bool> {
        if read(path).is_ok_and(|there| there == *value) {
            return Ok(false);
        }
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        replace(path, &text, self.mode)?;
        tracing::info!(file = %path.display(), "network configuration written");
        Ok(true)
    }

    /// Takes everything away again; the configuration first.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        for name in self.owned.iter().map(String::as_str).chain([STANDALONE]) {
            remove(&self.folder.join(name))?;
        }
        if self.chained
            && self.owned.is_none()
            && let Ok((source, mut list)) = self.source()
        {
            put_entry(&mut list, None);
            self.put(&source, &list)?;
        }
        remove(&self.binary)?;
        tracing::info!("plugin removed");
        Ok(())
    }
}

fn fingerprint(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

/// A list of plugins, made of a single one if it is that.
fn as_list(value: Value, path: &Path) -> anyhow::Result<Value> {
    let Value::Object(mut map) = value else {
        bail!("{}: no network configuration", path.display());
    };
    if map
        .get("plugins")
        .and_then(Value::as_array)
        .is_some_and(|plugins| !plugins.is_empty())
    {
        return Ok(Value::Object(map));
    }
    if !map.get("type").is_some_and(Value::is_string) {
        bail!("{}: neither plugins nor a plugin's type", path.display());
    }
    let mut list = Map::new();
    list.insert(
        "cniVersion".into(),
        map.remove("cniVersion").unwrap_or_else(|| json!(VERSION)),
    );
    let name = map.get("name").cloned().unwrap_or_else(|| json!("k8s-pod-network"));
    list.insert("name".into(), name);
    list.insert("plugins".into(), json!([map]));
    Ok(Value::Object(list))
}

/// Our plugin goes last, once, or nowhere.
fn put_entry(list: &mut Value, entry: Option<&Value>) {
    if let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) {
        plugins.retain(|plugin| plugin["type"] != PLUGIN);
        plugins.extend(entry.cloned());
    }
}

#[cfg(test)]
mod tests;
