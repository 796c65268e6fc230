//! What the component model's bindings generator makes of `wit/`.

/// The contract of functions, and all that a guest may import besides WASI's own interfaces.
pub(crate) mod function {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "shunt:functions/function",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "wasi:keyvalue/store.bucket": crate::reach::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": crate::reach::keyvalue::Cas,
            "wasi:nn/tensor.tensor": crate::reach::nn::Tensor,
            "wasi:nn/graph.graph": crate::reach::nn::Graph,
            "wasi:nn/inference.graph-execution-context": crate::reach::nn::Execution,
            "wasi:nn/errors.error": crate::reach::nn::Error,
        },
    });
}

/// The contract of the interpreters.
pub(crate) mod text {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "shunt:functions/text",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "shunt:functions/log": crate::host::world::function::shunt::functions::log,
            "shunt:functions/events": crate::host::world::function::shunt::functions::events,
            "shunt:functions/state": crate::host::world::function::shunt::functions::state,
        },
    });
}

/// A state store that is a component.
pub(crate) mod state_store {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "shunt:functions/state-store-exports",
        exports: { default: async },
    });
}

/// `wasi:keyvalue` in the draft before.
pub(crate) mod keyvalue_draft {
    wasmtime::component::bindgen!({
        path: "wit/deps/keyvalue-draft",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::reach::keyvalue::Bucket,
        },
    });
}
