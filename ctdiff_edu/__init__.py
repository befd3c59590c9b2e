"Score-based diffusion for CT images: `import ctdiff_edu as ct` and these names are there."
__version__ = "0.1.0"

TYPE_CHECKING = False   # as typing.TYPE_CHECKING, without the import

if TYPE_CHECKING:   # for editors and type checkers; at run time each name is imported when it is first asked for
    from .data import add_noise, load_patches, phantoms
    from .sampling import condition, denoise, load_network, network_denoiser, sample
    from .scores import Denoiser, evaluate, psnr, ssim
    from .solvers import posterior_samples
    from .weights import pretrained

__all__ = [
    "add_noise", "condition", "denoise", "Denoiser", "evaluate", "load_network", "load_patches",
    "network_denoiser", "phantoms", "posterior_samples", "pretrained", "psnr", "sample", "ssim"]


def __getattr__(name):
    "A name of the front door, from the room where it lives."
    if name in __all__:
        from . import data, sampling, scores, solvers, weights
        for room in (data, sampling, scores, solvers, weights):
            if name in room.__all__: return getattr(room, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(set(globals()) | set(__all__))
