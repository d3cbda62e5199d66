//! Other servers that this one calls: their addresses, and what a failed call is caused by.

use std::error::Error;
use std::fmt;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{self, Endpoint};
use tonic::{Request, Status};

/// An address that is not a `host:port`.
#[derive(Debug)]
pub struct BadAddress {
    /// The text in its place.
    pub address: String,
    /// What is wrong with it.
    pub error: transport::Error,
}

/// The server at `address`, a `host:port`, without TLS.
///
/// # Errors
/// [`BadAddress`].
pub fn endpoint(address: &str) -> Result<Endpoint, BadAddress> {
    Endpoint::from_shared(format!("http://{address}"))
        // Late answers to calls that were given up count here over the life of the connection.
        .map(|endpoint| endpoint.http2_max_local_error_reset_streams(None))
        .map_err(|error| BadAddress { address: address.to_owned(), error })
}

/// Adds a token to every call. Without one it changes nothing.
#[derive(Clone, Default)]
pub struct BearerToken(Option<MetadataValue<Ascii>>);

impl BearerToken {
    /// # Panics
    /// If `token` has characters that no header can have; the configuration takes none.
    #[must_use]
    pub fn new(token: Option<&str>) -> Self {
        Self(token.map(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {token}").parse().expect("a token is visible ASCII");
            value.set_sensitive(true);
            value
        }))
    }
}

impl Interceptor for BearerToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "BearerToken(***)" } else { "BearerToken" })
    }
}

/// The innermost error: it names what happened, and those around it only where.
pub fn root_cause<'error>(
    mut error: &'error (dyn Error + 'static),
) -> &'error (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_is_refused() {
        assert!(endpoint("logic.example:7170").is_ok());
        let BadAddress { address, error } = endpoint("a b:1").unwrap_err();
        assert_eq!(address, "a b:1");
        assert!(root_cause(&error).source().is_none());
    }
}
