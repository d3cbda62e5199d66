//! Why a request is not taken, and what its caller is told.

use std::time::Duration;

use axum::http::StatusCode;
use tonic::Status;

/// Why a request is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// It did not come in within its time.
    Late,
    /// It had to make room for others, or found none.
    NoRoom,
}

impl Refusal {
    /// Its label in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::NoRoom => "no_room",
        }
    }

    /// The answer over gRPC. `limit` is the time that a request has.
    pub(crate) fn status(self, limit: Duration) -> Status {
        match self {
            Self::Late => {
                Status::deadline_exceeded(format!("the request did not come in within {limit:?}"))
            }
            Self::NoRoom => Status::resource_exhausted(
                "too many bytes of requests are under way: the slowest request is given up",
            ),
        }
    }

    /// The status of the answer over HTTP.
    pub(crate) fn http_status(self) -> StatusCode {
        match self {
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
