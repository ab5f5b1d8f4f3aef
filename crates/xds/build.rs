//! Reads the descriptors of Envoy's messages out of the `.proto` files that `envoy-types` carries, and
//! writes three things: the descriptor set (for JSON and YAML), pruned to what can be read or shown; the
//! names of the fields that hold secrets; and the table by which `canonical` finds the maps in an encoded
//! message.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_reflect::{DescriptorPool, Value};
use prost_types::field_descriptor_proto::Type;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, FieldOptions, FileDescriptorSet, MessageOptions,
};
use protox::file::{File, FileResolver, GoogleFileResolver};

/// Folders below `envoy/` whose messages can be part of what is sent or read. Whatever they import
/// comes along.
const FOLDERS: &[&str] = &[
    "admin/v3",
    "config",
    "extensions/access_loggers/file",
    "extensions/access_loggers/stream",
    "extensions/clusters/aggregate",
    "extensions/clusters/dynamic_forward_proxy",
    "extensions/compression",
    "extensions/filters/http/buffer",
    "extensions/filters/http/compressor",
    "extensions/filters/http/cors",
    "extensions/filters/http/dynamic_forward_proxy",
    "extensions/filters/http/ext_authz",
    "extensions/filters/http/fault",
    "extensions/filters/http/grpc_stats",
    "extensions/filters/http/grpc_web",
    "extensions/filters/http/health_check",
    "extensions/filters/http/jwt_authn",
    "extensions/filters/http/local_ratelimit",
    "extensions/filters/http/rbac",
    "extensions/filters/http/router",
    "extensions/filters/listener/http_inspector",
    "extensions/filters/listener/original_dst",
    "extensions/filters/listener/proxy_protocol",
    "extensions/filters/listener/tls_inspector",
    "extensions/filters/network/connection_limit",
    "extensions/filters/network/http_connection_manager",
    "extensions/filters/network/local_ratelimit",
    "extensions/filters/network/rbac",
    "extensions/filters/network/sni_cluster",
    "extensions/filters/network/tcp_proxy",
    "extensions/load_balancing_policies/common",
    "extensions/load_balancing_policies/least_request",
    "extensions/load_balancing_policies/maglev",
    "extensions/load_balancing_policies/random",
    "extensions/load_balancing_policies/ring_hash",
    "extensions/load_balancing_policies/round_robin",
    "extensions/load_balancing_policies/wrr_locality",
    "extensions/retry/host",
    "extensions/transport_sockets/internal_upstream",
    "extensions/transport_sockets/raw_buffer",
    "extensions/transport_sockets/tls/v3",
    "extensions/upstreams/http/v3",
    "service/discovery",
    "service/status",
    "type",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    // Another envoy-types has other descriptors.
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let protos = envoy_types()?.join("proto");
    let includes: Vec<PathBuf> = [
        "data-plane-api",
        "xds",
        "protoc-gen-validate",
        "googleapis",
        "opentelemetry-proto",
        "client_model",
        "cel-spec/proto",
        "ratelimit",
    ]
    .iter()
    .map(|root| protos.join(root))
    .collect();
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&protos.join("data-plane-api/envoy").join(folder), &mut files)?;
    }
    files.sort();
    let mut compiler = protox::Compiler::with_file_resolver(Sources(includes));
    compiler
        .include_imports(true)
        .include_source_info(false)
        .open_files(&files)?;
    let set = FileDescriptorSet::decode(compiler.encode_file_descriptor_set().as_slice())?;
    std::fs::write(out.join("maps.rs"), table(&set)?)?;
    std::fs::write(out.join("descriptors.bin"), pruned(set).encode_to_vec())?;
    std::fs::write(out.join("sensitive.rs"), sensitive(&compiler.descriptor_pool())?)?;
    Ok(())
}

/// The `.proto` files, found below several roots.
struct Sources(Vec<PathBuf>);

impl FileResolver for Sources {
    fn resolve_path(&self, path: &Path) -> Option<String> {
        let name = self.0.iter().find_map(|root| path.strip_prefix(root).ok())?;
        Some(name.to_str()?.replace('\\', "/"))
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let Some(path) = self
            .0
            .iter()
            .map(|root| root.join(name))
            .find(|path| path.is_file())
        else {
            return GoogleFileResolver::new().open_file(name);
        };
        let source = std::fs::read_to_string(path).map_err(protox::Error::new)?;
        // These names are relative, and protox takes the nearest package that begins with `common`,
        // imported or not, where protoc looks only at what the file imports.
        let source = source
            .replace(" common.ratelimit.v3.", " .envoy.extensions.common.ratelimit.v3.")
            .replace(
                " common.dynamic_forward_proxy.v3.",
                " .envoy.extensions.common.dynamic_forward_proxy.v3.",
            );
        File::from_source(name, &source)
    }
}

/// Where cargo keeps the sources of `envoy-types`.
fn envoy_types() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let manifest = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let target = std::env::var("TARGET")?;
    let cargo = std::env::var("CARGO")?;
    let metadata = |more: &[&str]| {
        Command::new(&cargo)
            .args(["metadata", "--format-version=1", "--manifest-path"])
            .arg(&manifest)
            // A build downloads what its target needs, and no more; other platforms' crates may be missing.
            .args(["--filter-platform", &target])
            .args(more)
            .output()
    };
    let mut output = metadata(&["--offline"])?;
    if !output.status.success() {
        // Listing needs the crates of tests as well, which a first build has not fetched yet.
        output = metadata(&[])?;
    }
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata (`cargo fetch` may help): {reason}").into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let package = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not list envoy-types")?;
    Ok(Path::new(package)
        .parent()
        .ok_or("envoy-types has no folder")?
        .to_owned())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// What a file or a stream can hold as a whole. Everything in `admin`, `service` and `extensions` counts
/// besides: those are the dumps, the requests, and what stands in a `typed_config`.
const WHOLE: &[&str] = &[
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.config.route.v3.ScopedRouteConfiguration",
    "envoy.config.route.v3.VirtualHost",
];
/// Packages of `envoy.config` whose messages stand in a `typed_config`.
const TYPED: &[&str] = &[
    "envoy.config.trace.v3",
    "envoy.config.upstream.local_address_selector.v3",
];
/// Well-known messages that a `typed_config` may hold, or that JSON has its own form for.
const GOOGLE: &str = "google.protobuf";

/// Leaves out messages that nothing leads to, and options, which reading and writing do not need: a pool
/// of everything would take more memory than the rest of a sidecar.
fn pruned(mut set: FileDescriptorSet) -> FileDescriptorSet {
    let mut home = BTreeMap::new();
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut queue: Vec<String> = Vec::new();
    for file in &set.file {
        let package = file.package();
        for message in &file.message_type {
            let name = format!("{package}.{}", message.name());
            let entry = WHOLE.contains(&name.as_str())
                || TYPED.contains(&package)
                || (package == GOOGLE && !file.name().ends_with("descriptor.proto"))
                || ["envoy.admin.", "envoy.service.", "envoy.extensions."]
                    .iter()
                    .any(|p| package.starts_with(p));
            if entry {
                queue.push(name.clone());
            }
            let mut types = BTreeSet::new();
            types_of(message, &mut types);
            needs.insert(name.clone(), types);
            home.insert(name, file.name().to_owned());
        }
        for values in &file.enum_type {
            home.insert(format!("{package}.{}", values.name()), file.name().to_owned());
        }
    }
    // A nested type is kept with the outermost message around it.
    let outermost = |name: &str| {
        let mut at = name;
        while !home.contains_key(at) {
            at = at.rsplit_once('.')?.0;
        }
        Some(at.to_owned())
    };
    let mut kept = BTreeSet::new();
    while let Some(name) = queue.pop() {
        if kept.insert(name.clone()) {
            let types = needs.get(&name).into_iter().flatten();
            queue.extend(types.filter_map(|t| outermost(t)));
        }
    }
    for file in &mut set.file {
        let package = file.package().to_owned();
        let keeps = |name: &str| kept.contains(&format!("{package}.{name}"));
        file.message_type.retain(|m| keeps(m.name()));
        file.enum_type.retain(|e| keeps(e.name()));
        file.service.clear();
        file.extension.clear();
        file.options = None;
        file.public_dependency.clear();
        file.weak_dependency.clear();
        file.message_type.iter_mut().for_each(strip);
        file.enum_type.iter_mut().for_each(strip_enum);
        let mut types = BTreeSet::new();
        file.message_type.iter().for_each(|m| types_of(m, &mut types));
        let files: BTreeSet<&String> = types
            .iter()
            .filter_map(|t| outermost(t))
            .filter_map(|t| home.get(&t))
            .collect();
        file.dependency = files.into_iter().filter(|f| *f != file.name()).cloned().collect();
    }
    set.file
        .retain(|f| !f.message_type.is_empty() || !f.enum_type.is_empty());
    set
}

/// Names of the types of all fields of a message and of those inside it.
fn types_of(message: &DescriptorProto, types: &mut BTreeSet<String>) {
    let fields = message.field.iter().filter_map(|f| f.type_name.as_deref());
    types.extend(fields.map(|t| t.trim_start_matches('.').to_owned()));
    message.nested_type.iter().for_each(|m| types_of(m, types));
}

/// Removes options, but for those that change what the bytes mean.
fn strip(message: &mut DescriptorProto) {
    message.options = message.options.take().and_then(|o| {
        o.map_entry.map(|map_entry| MessageOptions {
            map_entry: Some(map_entry),
            ..MessageOptions::default()
        })
    });
    message.extension.clear();
    for field in &mut message.field {
        field.options = field.options.take().and_then(|o| {
            o.packed.map(|packed| FieldOptions {
                packed: Some(packed),
                ..FieldOptions::default()
            })
        });
    }
    for oneof in &mut message.oneof_decl {
        oneof.options = None;
    }
    message.enum_type.iter_mut().for_each(strip_enum);
    message.nested_type.iter_mut().for_each(strip);
}

fn strip_enum(values: &mut EnumDescriptorProto) {
    values.options = values.options.take().and_then(|o| {
        o.allow_alias.map(|allow_alias| EnumOptions {
            allow_alias: Some(allow_alias),
            ..EnumOptions::default()
        })
    });
    for value in &mut values.value {
        value.options = None;
    }
}

/// The source text of a sorted list of the fields that Envoy marks as secret.
fn sensitive(pool: &DescriptorPool) -> Result<String, Box<dyn std::error::Error>> {
    let mark = pool
        .get_extension_by_name("udpa.annotations.sensitive")
        .ok_or("udpa.annotations.sensitive is not among the imports")?;
    let mut names = BTreeSet::new();
    for message in pool.all_messages() {
        for field in message.fields() {
            if *field.options().get_extension(&mark) == Value::Bool(true) {
                names.insert(field.full_name().to_owned());
            }
        }
    }
    Ok(format!("pub(super) static FIELDS: &[&str] = &{names:#?};\n")
        .replace('{', "[")
        .replace('}', "]"))
}

/// A message: its map fields and its message fields, by number.
#[derive(Default)]
struct Shape {
    /// Map field to the message type of its values; `None` for scalars.
    maps: BTreeMap<i32, Option<String>>,
    messages: BTreeMap<i32, String>,
}

const ANY: &str = "google.protobuf.Any";

/// The source text of a table of all messages in which a map can occur, at whatever depth.
fn table(set: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut shapes = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            shape(file.package(), message, &mut shapes);
        }
    }
    // Grows from the messages that have a map (or an Any, which can hold one) to those that have those.
    let mut kept: BTreeSet<&str> = BTreeSet::from([ANY]);
    loop {
        let more: Vec<&str> = shapes
            .iter()
            .filter(|(name, shape)| {
                !kept.contains(name.as_str())
                    && (!shape.maps.is_empty() || shape.messages.values().any(|m| kept.contains(m.as_str())))
            })
            .map(|(name, _)| name.as_str())
            .collect();
        if more.is_empty() {
            break;
        }
        kept.extend(more);
    }
    let index: BTreeMap<&str, usize> = kept.iter().enumerate().map(|(i, name)| (*name, i)).collect();
    let mut text = format!("pub(super) const ANY: u16 = {};\n", index[ANY]);
    text += "pub(super) static MESSAGES: &[(&str, &[(u32, Field)])] = &[\n";
    for name in &kept {
        write!(text, "({name:?}, &[")?;
        let shape = &shapes[*name];
        let mut fields = BTreeMap::new();
        for (number, value) in &shape.maps {
            let value = value.as_deref().and_then(|v| index.get(v));
            fields.insert(number, format!("Field::Map({value:?})"));
        }
        for (number, message) in &shape.messages {
            if let Some(i) = index.get(message.as_str()) {
                fields.insert(number, format!("Field::Message({i})"));
            }
        }
        for (number, field) in fields {
            write!(text, "({number}, {field}),")?;
        }
        text += "]),\n";
    }
    text += "];\n";
    Ok(text)
}

fn shape(scope: &str, message: &DescriptorProto, shapes: &mut BTreeMap<String, Shape>) {
    let name = format!("{scope}.{}", message.name());
    let entries: BTreeMap<String, &DescriptorProto> = message
        .nested_type
        .iter()
        .filter(|nested| nested.options.as_ref().is_some_and(|o| o.map_entry()))
        .map(|nested| (format!(".{name}.{}", nested.name()), nested))
        .collect();
    let mut shape_of = Shape::default();
    for field in message.field.iter().filter(|f| f.r#type() == Type::Message) {
        match entries.get(field.type_name()) {
            Some(entry) => {
                let value = entry
                    .field
                    .iter()
                    .find(|f| f.number() == 2 && f.r#type() == Type::Message);
                let value = value.map(|f| f.type_name().trim_start_matches('.').to_owned());
                shape_of.maps.insert(field.number(), value);
            }
            None => {
                shape_of.messages.insert(
                    field.number(),
                    field.type_name().trim_start_matches('.').to_owned(),
                );
            }
        }
    }
    for nested in message
        .nested_type
        .iter()
        .filter(|n| !n.options.as_ref().is_some_and(|o| o.map_entry()))
    {
        shape(&name, nested, shapes);
    }
    shapes.insert(name, shape_of);
}
