//! From Envoy's access log sinks and formats.

use std::sync::Arc;

use isthmus_xds::any;
use isthmus_xds::envoy::access_loggers::{file, stream};
use isthmus_xds::envoy::accesslog as e;
use isthmus_xds::envoy::{Any, core};
use prost::{Message, Name};

use super::{AccessLog, AccessLogFormat};
use crate::config::field::{json_object, text};
use crate::config::refusal::{At, Refusal};

/// Envoy's line when nothing is said.
const ENVOY_LINE: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Istio's line, as its control plane writes it (`EnvoyTextLogFormat`); older ones say `UPSTREAM_CLUSTER`.
pub const ISTIO_LINE: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Reads `access_log`.
pub fn wire(logs: &[e::AccessLog]) -> Result<Vec<AccessLog>, Refusal> {
    logs.iter()
        .enumerate()
        .map(|(i, l)| one(l).nth("access_log", i))
        .collect()
}

fn one(l: &e::AccessLog) -> Result<AccessLog, Refusal> {
    if l.filter.as_ref().is_some_and(|f| f.filter_specifier.is_some()) {
        return Err(Refusal::unsupported("filter"));
    }
    let config = match l.config_type.as_ref() {
        Some(e::access_log::ConfigType::TypedConfig(any)) => any,
        None => return Err(Refusal::new("typed_config", "is required and not set")),
    };
    let at = "typed_config";
    if any::is::<file::FileAccessLog>(config) {
        to_file(&read(config)?).at(at)
    } else if any::is::<stream::StdoutAccessLog>(config) {
        use stream::stdout_access_log::AccessLogFormat::LogFormat;
        let s: stream::StdoutAccessLog = read(config)?;
        let said = s.access_log_format.as_ref().map(|LogFormat(f)| f);
        to_stream("/dev/stdout", said).at(at)
    } else if any::is::<stream::StderrAccessLog>(config) {
        use stream::stderr_access_log::AccessLogFormat::LogFormat;
        let s: stream::StderrAccessLog = read(config)?;
        let said = s.access_log_format.as_ref().map(|LogFormat(f)| f);
        to_stream("/dev/stderr", said).at(at)
    } else {
        Err(Refusal::new(
            at,
            format!(
                "the sink {} is not known here; files, stdout and stderr are",
                any::full_name(&config.type_url)
            ),
        ))
    }
}

fn read<M: Message + Name + Default>(config: &Any) -> Result<M, Refusal> {
    any::unpack(config).map_err(|e| Refusal::new("typed_config", e.to_string()))
}

fn to_file(f: &file::FileAccessLog) -> Result<AccessLog, Refusal> {
    use file::file_access_log::AccessLogFormat as F;
    if !f.path.starts_with('/') {
        return Err(Refusal::new(
            "path",
            format!("{:?} must be an absolute path", f.path),
        ));
    }
    let format = match f.access_log_format.as_ref() {
        None => line(ENVOY_LINE),
        Some(F::Format(t)) if t.is_empty() => line(ENVOY_LINE),
        Some(F::Format(t)) => line(t),
        Some(F::JsonFormat(s)) | Some(F::TypedJsonFormat(s)) => AccessLogFormat::Json(json_object(s).into()),
        Some(F::LogFormat(s)) => substitution(s).at("log_format")?,
    };
    Ok(AccessLog {
        path: f.path.as_str().into(),
        format,
    })
}

fn to_stream(path: &str, f: Option<&core::SubstitutionFormatString>) -> Result<AccessLog, Refusal> {
    Ok(AccessLog {
        path: path.into(),
        format: match f {
            None => line(ENVOY_LINE),
            Some(f) => substitution(f).at("log_format")?,
        },
    })
}

fn substitution(f: &core::SubstitutionFormatString) -> Result<AccessLogFormat, Refusal> {
    use core::substitution_format_string::Format as F;
    Ok(match f.format.as_ref() {
        Some(F::TextFormat(t)) => line(t),
        Some(F::JsonFormat(s)) => AccessLogFormat::Json(json_object(s).into()),
        Some(F::TextFormatSource(d)) => line(&text(d).at("text_format_source")?),
        None => return Err(Refusal::new("format", "is required and not set")),
    })
}

fn line(t: &str) -> AccessLogFormat {
    if t.replace("%UPSTREAM_CLUSTER%", "%UPSTREAM_CLUSTER_RAW%") == ISTIO_LINE {
        AccessLogFormat::Default
    } else {
        AccessLogFormat::Text(Arc::from(t))
    }
}
