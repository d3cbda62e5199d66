//! The reasons why a request is not taken, and the answers to its caller.

use std::time::Duration;

use axum::http::StatusCode;
use tonic::Status;

/// Why a request is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// It did not come in within its time.
    Late,
    /// It had to give its space to others, or found none.
    NoRoom,
    /// A web page of another site made it.
    CrossSite,
    /// It asks for a name that is not this server's.
    WrongHost,
    /// It has no valid token.
    NoToken,
    /// The number of health watches is at its bound.
    Watches,
    /// The number of unfinished answers is at its bound.
    Answers,
}

impl Refusal {
    pub(crate) const ALL: [Self; 7] = [
        Self::Late,
        Self::NoRoom,
        Self::CrossSite,
        Self::WrongHost,
        Self::NoToken,
        Self::Watches,
        Self::Answers,
    ];

    /// Its label in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::NoRoom => "no_room",
            Self::CrossSite => "cross_site",
            Self::WrongHost => "wrong_host",
            Self::NoToken => "no_token",
            Self::Watches => "watches",
            Self::Answers => "answers",
        }
    }

    /// Whether the caller may not call. Otherwise the request itself is at fault.
    pub(crate) fn is_locked_out(self) -> bool {
        matches!(self, Self::CrossSite | Self::WrongHost | Self::NoToken)
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
            Self::CrossSite => Status::permission_denied("a page of another site made the request"),
            Self::WrongHost => Status::permission_denied(
                "the host of the request is no name of this server: use its address, or see server.hosts",
            ),
            Self::NoToken => {
                Status::unauthenticated("a token that opens is needed: Authorization: Bearer")
            }
            Self::Watches => Status::resource_exhausted(
                "too many callers watch health here: ask for it by Check, once in a while",
            ),
            Self::Answers => Status::resource_exhausted(
                "too many answers are not taken to their end: read them, and end streams that are not used",
            ),
        }
    }

    /// The status of the answer over HTTP.
    pub(crate) fn http_status(self) -> StatusCode {
        match self {
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom | Self::Watches | Self::Answers => StatusCode::SERVICE_UNAVAILABLE,
            Self::CrossSite | Self::WrongHost => StatusCode::FORBIDDEN,
            Self::NoToken => StatusCode::UNAUTHORIZED,
        }
    }
}
