"""NovoGrad. Open `reference.py` first: it is Algorithm 1, tensor by tensor."""

from novobench.optim.novograd.convert import convert_state_dict
from novobench.optim.novograd.grad_scaler import GradScaler
from novobench.optim.novograd.optimizer import NovoGrad
from novobench.optim.novograd.tuning import LaunchSettings, Tuning

__all__ = ["GradScaler", "LaunchSettings", "NovoGrad", "Tuning", "convert_state_dict"]
