//! A page that a program shows beside its probes and its metrics.

use std::{fmt, pin::Pin, sync::Arc};

type Text = Pin<Box<dyn Future<Output = String> + Send>>;

/// A page that is made anew for each request, in JSON.
#[derive(Clone)]
pub struct Page {
    /// Its path, such as `/facts`.
    pub path: &'static str,
    render: Arc<dyn Fn() -> Text + Send + Sync>,
}

impl Page {
    /// A page at `path` that shows what `render` makes.
    pub fn new<F>(path: &'static str, render: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        Self { path, render: Arc::new(move || Box::pin(render())) }
    }

    /// Its content now.
    pub async fn text(&self) -> String {
        (self.render)().await
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({})", self.path)
    }
}
