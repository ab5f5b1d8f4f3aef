//! From YAML to resources: what each kind of object becomes, seen from the proxy.

mod envoy;
mod every_field;
mod gateway;
mod hop;
mod security;
mod sidecar;
mod virtual_service;
