# kernels/api.h, for Cython.  The C compiler checks the arguments, against include/softmax_fast.h.

cdef extern from "api.h" nogil:
    ctypedef struct softmax_fast_table:
        pass
    const softmax_fast_table sf_api_table
    ctypedef struct softmax_fast_loss_options:
        pass

    int softmax_fast_api_version(...) noexcept
    int softmax_fast_softmax_f32(...) noexcept
    int softmax_fast_softmax_f64(...) noexcept
    int softmax_fast_log_softmax_f32(...) noexcept
    int softmax_fast_log_softmax_f64(...) noexcept
    int softmax_fast_logsumexp_f32(...) noexcept
    int softmax_fast_logsumexp_f64(...) noexcept
    int softmax_fast_softmax_loss_f32(...) noexcept
    int softmax_fast_softmax_loss_f64(...) noexcept
    int softmax_fast_softmax_loss_grad_f32(...) noexcept
    int softmax_fast_softmax_loss_grad_f64(...) noexcept
    int softmax_fast_weight_sum(...) noexcept
    int softmax_fast_kl_divergence_f32(...) noexcept
    int softmax_fast_kl_divergence_f64(...) noexcept
    int softmax_fast_kl_divergence_grad_f32(...) noexcept
    int softmax_fast_kl_divergence_grad_f64(...) noexcept
    int softmax_fast_linear_softmax_loss_f32(...) noexcept
    int softmax_fast_linear_softmax_loss_f64(...) noexcept
    int softmax_fast_linear_softmax_loss_f32_bf16(...) noexcept
    int softmax_fast_linear_softmax_loss_grad_f32(...) noexcept
    int softmax_fast_linear_softmax_loss_grad_f64(...) noexcept
    int softmax_fast_linear_softmax_loss_grad_f32_bf16(...) noexcept
