//! What `deploy` holds beside the charts' templates is generated. `ISTHMUS_REGENERATE=1 cargo test -p
//! isthmus-manifests --test drift` writes it; without that, this fails when it is not up to date.

use std::path::{Path, PathBuf};
use std::{env, fs};

use isthmus_manifests::chart::{Chart, VERSION};
use isthmus_manifests::{crd, schema, yaml};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// The generated files, by their paths below `deploy`.
fn generated() -> Vec<(String, String)> {
    let definitions = crd::definitions();
    let note = "# Generated from the types that read these kinds; see crates/manifests/tests/drift.rs.\n";
    let mut files = vec![(
        "crds/crds.yaml".to_owned(),
        format!("{note}{}", yaml::write_all(&definitions)),
    )];
    for definition in &definitions {
        files.push((
            format!("charts/base/{}", crd::file(definition)),
            format!("{note}{}", yaml::write(definition)),
        ));
    }
    for chart in Chart::ALL {
        let schema = format!("{}\n", yaml::pretty_json(&schema::of(chart)));
        files.push((format!("charts/{}/values.schema.json", chart.name()), schema));
    }
    files
}

#[test]
fn generated_files_are_up_to_date() {
    let regenerate = env::var_os("ISTHMUS_REGENERATE").is_some();
    for (path, wanted) in generated() {
        let file = deploy().join(&path);
        if regenerate {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &wanted).unwrap();
        }
        let there = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            there == wanted,
            "deploy/{path} is not what would be generated: run `just manifests` and commit it"
        );
    }
    let crds = fs::read_dir(deploy().join("charts/base/files/crds")).unwrap();
    assert_eq!(
        crds.count(),
        crd::definitions().len(),
        "deploy/charts/base/files/crds has a file too many"
    );
}

#[test]
fn the_charts_have_the_version_of_the_binary() {
    for chart in Chart::ALL {
        let text = fs::read_to_string(deploy().join(format!("charts/{}/Chart.yaml", chart.name()))).unwrap();
        let chart = yaml::read(&text).unwrap().remove(0);
        assert_eq!(
            (&chart["version"], &chart["appVersion"]),
            (&VERSION.into(), &VERSION.into())
        );
    }
}
