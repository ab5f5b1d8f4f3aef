//! The Helm charts of `deploy/charts`, built into the binary and rendered without Helm.

use include_dir::{Dir, include_dir};
use serde_json::{Map, Value, json};

use crate::template::{TemplateError, Templates};
use crate::{merge, yaml};

static CHARTS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../deploy/charts");

/// Version of the charts and of the images that they name.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chart {
    /// Custom resource definitions.
    Base,
    /// The control plane.
    Istiod,
    /// One gateway.
    Gateway,
}

/// Which installation of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release<'a> {
    /// Helm's name for it.
    pub name: &'a str,
    /// Where it goes.
    pub namespace: &'a str,
}

/// Why a chart yields no objects.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A template does not take the values.
    #[error("chart {chart}: {source}")]
    Template {
        /// Name of the chart.
        chart: &'static str,
        /// Where and why.
        source: TemplateError,
    },
    /// What a template yields is no YAML, since a value breaks it.
    #[error("chart {chart}: {template} yields no YAML with these values: {why}")]
    Yaml {
        /// Name of the chart.
        chart: &'static str,
        /// The template.
        template: String,
        /// Line and reason.
        why: String,
    },
}

impl Chart {
    /// Every chart, in the order of installation.
    pub const ALL: [Chart; 3] = [Self::Base, Self::Istiod, Self::Gateway];

    /// Name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Istiod => "istiod",
            Self::Gateway => "gateway",
        }
    }

    /// Its `values.yaml`.
    pub fn defaults(self) -> Value {
        let text = self.file("values.yaml").unwrap_or_default();
        let document = yaml::read(text).ok().and_then(|mut all| all.pop());
        document.unwrap_or_default()
    }

    /// Renders it with these values over its defaults.
    ///
    /// # Errors
    /// A value is not of the type that a template needs.
    pub fn render(self, release: Release<'_>, values: &Value) -> Result<Vec<Value>, RenderError> {
        let mut effective = self.defaults();
        merge::merge(&mut effective, values);
        let root = json!({
            "Values": effective,
            "Release": { "Name": release.name, "Namespace": release.namespace, "Service": "Isthmus" },
            "Chart": { "Name": self.name(), "Version": VERSION, "AppVersion": VERSION },
            "Files": self.files(),
        });
        let chart = self.name();
        let error = |source| RenderError::Template { chart, source };
        let templates = self.templates().map_err(error)?;
        let mut objects = Vec::new();
        for template in templates.names() {
            let text = templates.render(template, &root).map_err(error)?;
            let documents = yaml::read(&text).map_err(|malformed| RenderError::Yaml {
                chart,
                template: template.to_owned(),
                why: malformed.to_string(),
            })?;
            objects.extend(documents.into_iter().filter(Value::is_object));
        }
        Ok(objects)
    }

    fn file(self, path: &str) -> Option<&'static str> {
        CHARTS
            .get_file(format!("{}/{path}", self.name()))?
            .contents_utf8()
    }

    fn templates(self) -> Result<Templates, TemplateError> {
        let mut templates = Templates::default();
        let dir = CHARTS.get_dir(format!("{}/templates", self.name()));
        for file in dir.into_iter().flat_map(|dir| dir.files()) {
            let name = file.path().file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".yaml") || name.ends_with(".tpl") {
                templates.add(&name, file.contents_utf8().unwrap_or_default())?;
            }
        }
        Ok(templates)
    }

    /// What `.Files` is: the chart's files beside its templates, by path.
    fn files(self) -> Map<String, Value> {
        let root = self.name();
        let mut found = Map::new();
        let mut open: Vec<&Dir<'_>> = CHARTS.get_dir(format!("{root}/files")).into_iter().collect();
        while let Some(dir) = open.pop() {
            open.extend(dir.dirs());
            for file in dir.files() {
                let path = file.path().strip_prefix(root).unwrap_or(file.path());
                let text = file.contents_utf8().unwrap_or_default();
                found.insert(path.display().to_string(), Value::from(text));
            }
        }
        found
    }
}
