//! TrafficExtension, and WasmPlugin, which is an older form of it.

use std::collections::BTreeSet;

use lateen_api::extensions::traffic_extension::{LuaConfig, TrafficSelector};
use lateen_api::extensions::wasm::{EnvValueSource, VmConfig};
use lateen_api::extensions::{TrafficExtensionSpec, WasmPluginSpec};
use lateen_api::selector::PortSelector;

use crate::{Finding, Findings, Subject, policy};

/// Schemes of the URL of a module.
const SCHEMES: [&str; 4] = ["oci", "http", "https", "file"];
/// A field that has no effect.
const IGNORED: &str = "LTN0001";
/// Longest script, in bytes.
const LONGEST_SCRIPT: usize = 64 << 10;

/// What is wrong with a TrafficExtension.
pub fn check(spec: &TrafficExtensionSpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, false);
    policy::attachment(spec.selector.as_ref(), None, &spec.target_refs, &mut findings);
    if spec.wasm.is_some() == spec.lua.is_some() {
        findings.error("spec", "set exactly one of `wasm` and `lua`");
    }
    if let Some(wasm) = &spec.wasm {
        let module = Module {
            at: "spec.wasm",
            url: &wasm.url,
            sha256: &wasm.sha256,
            verification_key: &wasm.verification_key,
            pull_secret: &wasm.image_pull_secret,
            name: &wasm.plugin_name,
            vm: wasm.vm_config.as_ref(),
        };
        module.check(&mut findings);
    }
    if let Some(lua) = &spec.lua {
        script(lua, &mut findings);
    }
    for (at, matched) in spec.r#match.iter().enumerate() {
        let TrafficSelector { ports: list, .. } = matched;
        ports(list, at, &mut findings);
    }
    findings.0
}

/// What is wrong with a WasmPlugin.
pub fn check_plugin(spec: &WasmPluginSpec, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.metadata(subject, false);
    policy::attachment(
        spec.selector.as_ref(),
        spec.target_ref.as_ref(),
        &spec.target_refs,
        &mut findings,
    );
    let module = Module {
        at: "spec",
        url: &spec.url,
        sha256: &spec.sha256,
        verification_key: &spec.verification_key,
        pull_secret: &spec.image_pull_secret,
        name: &spec.plugin_name,
        vm: spec.vm_config.as_ref(),
    };
    module.check(&mut findings);
    for (at, matched) in spec.r#match.iter().enumerate() {
        ports(&matched.ports, at, &mut findings);
    }
    findings.0
}

/// What both say alike of a module.
struct Module<'a> {
    at: &'static str,
    url: &'a str,
    sha256: &'a str,
    verification_key: &'a str,
    pull_secret: &'a str,
    name: &'a str,
    vm: Option<&'a VmConfig>,
}

impl Module<'_> {
    fn check(&self, findings: &mut Findings) {
        let field = |name: &str| format!("{}.{name}", self.at);
        if self.url.is_empty() {
            findings.error(field("url"), "the URL of the module is missing");
        }
        // Without scheme it is an image's name, which may have a port.
        let scheme = self
            .url
            .split_once("://")
            .map(|(scheme, _)| scheme.to_ascii_lowercase());
        if let Some(scheme) = &scheme
            && !SCHEMES.contains(&scheme.as_str())
        {
            findings.error(
                field("url"),
                format!("the scheme `{scheme}` is none of {}", SCHEMES.join(", ")),
            );
        }
        let digest = |text: &str| text.len() == 64 && text.bytes().all(|c| matches!(c, b'a'..=b'f' | b'0'..=b'9'));
        if !self.sha256.is_empty() && !digest(self.sha256) {
            findings.error(field("sha256"), "a SHA-256 has 64 digits, 0 to 9 and a to f");
        }
        if !self.sha256.is_empty() && scheme.as_deref() == Some("file") {
            findings.advice(
                IGNORED,
                field("sha256"),
                "it is not compared: the proxy reads the file by itself; remove it, or serve the module over HTTP",
            );
        }
        if !self.verification_key.is_empty() {
            findings.advice(
                IGNORED,
                field("verificationKey"),
                "it has no effect: signatures are not checked; use `sha256`",
            );
        }
        if self.pull_secret.len() > 253 {
            findings.error(field("imagePullSecret"), "the name is longer than 253 characters");
        }
        if self.name.len() > 256 {
            findings.error(field("pluginName"), "the name is longer than 256 characters");
        }
        let mut names = BTreeSet::new();
        for (at, variable) in self.vm.into_iter().flat_map(|vm| &vm.env).enumerate() {
            let field = field(&format!("vmConfig.env[{at}]"));
            if variable.name.is_empty() {
                findings.error(format!("{field}.name"), "the name of the variable is missing");
            }
            if variable.name.len() > 256 {
                findings.error(format!("{field}.name"), "the name is longer than 256 characters");
            }
            if !names.insert(&variable.name) {
                findings.error(format!("{field}.name"), "another entry has the same name");
            }
            if variable.value_from != EnvValueSource::Inline && !variable.value.is_empty() {
                findings.error(
                    format!("{field}.value"),
                    "only a variable that is INLINE has a value here",
                );
            }
        }
    }
}

fn script(lua: &LuaConfig, findings: &mut Findings) {
    if lua.inline_code.is_empty() {
        findings.error("spec.lua.inlineCode", "the script is missing");
    }
    if lua.inline_code.len() > LONGEST_SCRIPT {
        findings.error("spec.lua.inlineCode", "the script is longer than 64 KiB");
    }
}

fn ports(ports: &[PortSelector], at: usize, findings: &mut Findings) {
    for (place, port) in ports.iter().enumerate() {
        if !(1..=65535).contains(&port.number) {
            findings.error(
                format!("spec.match[{at}].ports[{place}].number"),
                "a port is 1 to 65535",
            );
        }
    }
}
