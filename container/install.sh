#!/bin/sh
# Install sam3_hyperet into a new virtual environment: sh install.sh SOURCES ENVIRONMENT [INDEX]
# INDEX is where pip finds PyTorch, such as that of its builds without CUDA. "default" is pip's own: CUDA's on x86-64.
set -eu
sources=$1
environment=$2
index=${3:-default}

python3 -m venv "$environment"
install() {
    "$environment/bin/python" -m pip --disable-pip-version-check install --no-cache-dir "$@"
}
if [ "$index" = default ]; then
    install "torch>=2.7" "torchvision>=0.22"
else
    install --index-url "$index" "torch>=2.7" "torchvision>=0.22"
fi
install "$sources"
"$environment/bin/sam3-hyperet" --help
