//! A request to a node.

/// Parameters of a request, in the order they are sent.
pub(crate) type Form = Vec<(&'static str, String)>;

/// A request to `http://NODE/PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// `HOST:PORT`
    pub node: String,
    /// Begins with `/`.
    pub path: &'static str,
    /// The parameters: in the body of a POST, form-encoded; in the query of a GET.
    pub form: Form,
}
