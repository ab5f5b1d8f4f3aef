//! From profiles, IstioOperator files, values files and `--set` to the objects of an installation.
//!
//! ```text
//!   profile ◀─ files, in order ◀─ --set   (read)    ─▶ Spec
//!   Spec + what runs already               (plan)    ─▶ values ─▶ charts ─▶ objects ◀─ k8s settings, overlays
//! ```

pub mod k8s;
mod overlay;
mod plan;
mod read;
pub mod set;
#[cfg(test)]
mod tests;
pub mod values;

pub use plan::{
    COMPONENT_LABEL, Component, ComponentKind, INSTALLER, INSTALLER_LABEL, Installation, OWNER_LABEL,
    SHARED_OWNER, Surroundings, VERSION_LABEL, plan,
};
pub use read::{Input, Spec, read};
