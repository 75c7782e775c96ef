//! An OCI image layout in one tar archive, as `ctr image import` and `kind load image-archive` take it; with the
//! `manifest.json` beside it that `docker load` and `podman load` read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::layer::{Blob, header, hex};

/// How a container of the image starts.
#[derive(Default)]
pub(super) struct Start {
    pub(super) entrypoint: Vec<String>,
    /// `user:group`, as numbers, so that `runAsNonRoot` can be checked.
    pub(super) user: String,
    /// For people who look at the image: keys as the OCI annotations have them.
    pub(super) labels: BTreeMap<String, String>,
}

/// Writes an image of `layers`, lowest first, and returns the digest of its manifest.
///
/// # Errors
/// When the archive cannot be written.
pub(super) fn write(to: &Path, reference: &str, layers: &[Blob], start: &Start) -> Result<String> {
    let mut blobs = Blobs::default();
    let layer_descriptors: Vec<Value> = layers
        .iter()
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", &layer.sha256, layer.size))
        .collect();
    let config = blobs.add(
        "application/vnd.oci.image.config.v1+json",
        &json!({
            "created": EPOCH,
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": start.entrypoint,
                "User": start.user,
                "WorkingDir": "/",
                "Labels": start.labels,
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|layer| format!("sha256:{}", layer.sha256)).collect::<Vec<_>>(),
            },
            "history": layers.iter().map(|_| json!({"created": EPOCH, "created_by": "cargo xtask images"})).collect::<Vec<_>>(),
        }),
    );
    let mut manifest = blobs.add(
        "application/vnd.oci.image.manifest.v1+json",
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layer_descriptors,
            "annotations": start.labels,
        }),
    );
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
    manifest["annotations"] = json!({"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    let path = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
    let docker = json!([{
        "Config": path(config["digest"].as_str().unwrap_or_default()),
        "RepoTags": [reference],
        "Layers": layers.iter().map(|layer| path(&layer.sha256)).collect::<Vec<_>>(),
    }]);
    blobs
        .small
        .insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    blobs
        .small
        .insert("index.json".to_owned(), index.to_string().into_bytes());
    blobs
        .small
        .insert("manifest.json".to_owned(), docker.to_string().into_bytes());
    pack(to, &blobs.small, layers).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(digest)
}

/// When everything was made: a fixed time, so that equal input makes equal bytes.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// This machine's architecture by the name that images use.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[derive(Default)]
struct Blobs {
    /// By their path in the archive.
    small: BTreeMap<String, Vec<u8>>,
}

impl Blobs {
    fn add(&mut self, media_type: &str, value: &Value) -> Value {
        let bytes = value.to_string().into_bytes();
        let sha256 = hex(&Sha256::digest(&bytes));
        let descriptor = descriptor(media_type, &sha256, bytes.len() as u64);
        self.small.insert(format!("blobs/sha256/{sha256}"), bytes);
        descriptor
    }
}

fn descriptor(media_type: &str, sha256: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{sha256}"), "size": size})
}

fn pack(to: &Path, small: &BTreeMap<String, Vec<u8>>, layers: &[Blob]) -> Result<()> {
    let folder = to.parent().context("an archive lies in a folder")?;
    let work = tempfile::NamedTempFile::new_in(folder)?;
    let mut tar = tar::Builder::new(BufWriter::new(work.as_file().try_clone()?));
    for path in ["blobs/", "blobs/sha256/"] {
        let mut header = header(0o755, 0);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, path, std::io::empty())?;
    }
    for (path, bytes) in small {
        let mut header = header(0o644, 0);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes.as_slice())?;
    }
    let mut sorted: Vec<&Blob> = layers.iter().collect();
    sorted.sort_by(|one, two| one.sha256.cmp(&two.sha256));
    sorted.dedup_by(|one, two| one.sha256 == two.sha256);
    for layer in sorted {
        let mut header = header(0o644, 0);
        header.set_size(layer.size);
        tar.append_data(
            &mut header,
            format!("blobs/sha256/{}", layer.sha256),
            File::open(&layer.path)?,
        )?;
    }
    tar.into_inner()?.into_inner()?;
    work.persist(to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::layer::{Layer, sha256};
    use super::*;

    fn image(folder: &Path) -> (std::path::PathBuf, String) {
        let mut layer = Layer::default();
        layer.bytes("hello", "hello\n");
        let layer = layer.write(folder).unwrap();
        let start = Start {
            entrypoint: vec!["/hello".to_owned()],
            user: "1337:1337".to_owned(),
            labels: BTreeMap::new(),
        };
        let to = folder.join("hello.tar");
        let digest = write(&to, "localhost/hello:1", &[layer], &start).unwrap();
        (to, digest)
    }

    fn files(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(File::open(archive).unwrap());
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().display().to_string(), bytes)
            })
            .collect()
    }

    #[test]
    fn an_image_leads_from_its_index_to_its_layers() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, digest) = image(folder.path());
        let files = files(&archive);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = &files[&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))];
            assert_eq!(bytes.len() as u64, descriptor["size"].as_u64().unwrap());
            assert_eq!(format!("sha256:{}", sha256(bytes.as_slice()).unwrap()), digest);
            bytes.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let entry = &index["manifests"][0];
        assert_eq!(entry["digest"], digest);
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "localhost/hello:1");
        let manifest: Value = serde_json::from_slice(&blob(entry)).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "1337:1337");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert!(blob(&manifest["layers"][0]).windows(6).any(|bytes| bytes == b"hello\n"));
        let docker: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(docker[0]["RepoTags"][0], "localhost/hello:1");
        assert!(files.contains_key(docker[0]["Config"].as_str().unwrap()));
    }

    #[test]
    fn equal_input_makes_equal_archives() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = folders
            .each_ref()
            .map(|folder| std::fs::read(image(folder.path()).0).unwrap());
        assert_eq!(one, two);
    }
}
