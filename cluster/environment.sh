# What every shell on a node of the cluster needs: ~/.bashrc reads it (cluster/install.sh sees to
# that), and so do all of Ray's own ssh sessions. FDAN_SHARED is set by the same line there.
export PATH="$HOME/fdan-search/.venv/bin:$PATH"
export RAY_AUTH_MODE=token # `ray start` refuses to start without ~/.ray/auth_token
export RAY_ADDRESS=auto    # a search runs on the cluster of the node that it is started on
export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
