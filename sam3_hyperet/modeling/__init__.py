"""SAM 3 models with adapters: built, loaded, adapted, copied, merged and saved.

config          options of adapters and of the base model, without torch
config_words    an adapter's configuration in words
build           SAM 3's architecture from its own classes, official or tiny
opening         the base model that a tool's configuration describes
checkpoint      base weights: read in any layout, written in SAM 3's own
layouts         the layouts in which base weights are published
tensor_files    safetensors and torch.save read safely, safetensors written
fingerprint     digests by which an adapter finds its base again
parameters      which parameters are the base's, and which the adapters'
sites           the places of adapters in a model
encoders        adapters of any other vision encoder
controls        LoRA, OFT, BitFit and others, for comparison
inject          adapters put in, switched off, and taken out
hub_errors      what the hub refuses, in one sentence
adapter_source  the file that a path, a run's folder or a hub repository stands for
adapter_metadata  what the metadata of an adapter file says
adapter_file    adapters saved and loaded, with their configuration
gates           how much of an adapter each prompt gets, where there are gates
dial            how far adapters move the base, from 0 to beyond 1
compilation     the parts of a model that PyTorch's compiler runs
copies          several models with one set of frozen tensors
merge           adapters folded into the base weights
probe           hooks on every adjustment; radius_sums and latest_radii are of the hyperbolic radii there
"""
