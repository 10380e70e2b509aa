# A real Slurm of two nodes, n1 and n2, on this machine: munged, slurmctld and two slurmd on loopback, with ports, keys and
# folders of their own. Sourced after tiny_run.sh; the test is skipped where it cannot be. Everything that was started ends
# with the test, by process id.
#   cluster_start [CONF-LINE...]   from here on srun, sbatch, scontrol and squeue speak to it
#   node_start NODE                starts its slurmd (again); big1 and big2, in partition big, are for scripts that ask for 64
#                                  processors and 8 GPUs, which Slurm takes our word for
#   node_kill NODE                 the node dies: its slurmd, step daemons and tasks, all at once
#   job_state ID                   RUNNING, PENDING, COMPLETED, ...
#   job_wait ID SECONDS STATE...   until the job is in one of these states
# shellcheck shell=bash disable=SC2119,SC2154
skip() {
  echo "skipped: $*"
  exit 77
}

((${TIME_FACTOR:-1} == 1)) || skip "too slow under sanitizers; t62, t66 and t67 run the code there"
((EUID == 0)) || skip "a Slurm of its own needs root"
for tool in slurmctld slurmd munged srun sbatch runuser; do
  command -v $tool >/dev/null || skip "$tool is missing: ./env.sh --dev installs slurm-wlm and munge"
done
getent passwd munge >/dev/null || skip "there is no user munge"

cluster=$work/cluster
munge=$(mktemp -d /tmp/qst-munge.XXXXXX) # user munge must reach it; $work may lie in a closed folder
declare -A daemons=()
trap cluster_stop EXIT

# What a node has started: all that finds it and this cluster in its environment, and the step daemons above.
processes_of() { # NODE
  local folder parent
  for folder in /proc/[0-9]*; do
    if grep -qzsx "SLURMD_NODENAME=$1" "$folder/environ" && grep -qzsx "SLURM_CONF=$SLURM_CONF" "$folder/environ"; then
      echo "${folder#/proc/}"
      parent=$(sed -n 's/^PPid:\t//p' "$folder/status" 2>/dev/null) || continue
      if [[ $(cat "/proc/$parent/comm" 2>/dev/null) == slurmstepd* ]]; then echo "$parent"; fi
    fi
  done | sort -u
}

node_kill() {
  local victims
  kill -KILL "${daemons[$1]}" 2>/dev/null || true
  wait "${daemons[$1]}" 2>/dev/null || true
  unset "daemons[$1]"
  mapfile -t victims < <(processes_of "$1")
  kill -KILL "${victims[@]}" 2>/dev/null || true
}

# Jobs first, or their step daemons outlive the slurmd.
cluster_stop() {
  local status=$? name
  if [[ ${daemons[slurmctld]:-} ]]; then
    if ((status)); then tail -n 12 "$cluster"/*.log >&2 || true; fi
    for name in n1 n2 big1 big2; do if [[ ${daemons[$name]:-} ]]; then node_kill $name; fi; done
  fi
  kill -KILL "${daemons[@]}" 2>/dev/null || true
  wait "${daemons[@]}" 2>/dev/null || true
  rm -rf "$munge" "$work"
  exit $status
}

# The first of COUNT ports that nobody listens on.
free_ports() { # COUNT
  local first i
  for _ in $(seq 50); do
    first=$((10000 + RANDOM % 20000))
    for ((i = 0; i < $1; i++)); do
      if (: </dev/tcp/127.0.0.1/$((first + i))) 2>/dev/null; then continue 2; fi
    done
    echo $first && return
  done
  die "no free ports"
}

write_conf() { # CONF-LINE...
  local port host
  port=$(free_ports 5)
  host=$(hostname -s)
  cat >"$SLURM_CONF" <<END
ClusterName=qst
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$munge/socket,cred_expire=5
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=10
SlurmdTimeout=6
SchedulerParameters=batch_sched_delay=0,sched_interval=1
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool.%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/%n.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/%n.log
TmpFS=$cluster/tmp.%n
ReturnToService=2
SelectType=select/cons_tres
GresTypes=gpu
SelectTypeParameters=CR_Core
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=2 RealMemory=2000
NodeName=big[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 3))-$((port + 4))] CPUs=64 RealMemory=2000 Gres=gpu:8
PartitionName=big Nodes=big[1-2] MaxTime=INFINITE State=UP
PartitionName=p Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
END
  printf '%s\n' "$@" >>"$SLURM_CONF"
  touch "$cluster"/gpu{0..7}
  echo "NodeName=big[1-2] Name=gpu File=$cluster/gpu[0-7]" >"$cluster/gres.conf"
}

# until_true SECONDS COMMAND...
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

# A node that died leaves no sockets to the steps it ran, in whose way they would be when the job comes back.
node_start() {
  mkdir -p "$cluster/spool.$1" "$cluster/tmp.$1"
  rm -f "$cluster/spool.$1"/stepd.slurm.pmix.*
  slurmd -D -N "$1" >/dev/null 2>&1 &
  daemons[$1]=$!
}

nodes_ready() { # PARTITION
  [[ $(sinfo -h -N -p "$1" -t idle -o %N | wc -l) == 2 ]]
}

start_munged() {
  dd if=/dev/urandom of="$munge/key" bs=1 count=128 2>/dev/null
  chmod 400 "$munge/key"
  chmod 711 "$munge"
  chown -R munge "$munge"
  setpriv --reuid munge --regid munge --clear-groups munged --foreground --key-file="$munge/key" --socket="$munge/socket" \
    --pid-file="$munge/pid" --log-file="$munge/log" --seed-file="$munge/seed" >/dev/null 2>&1 &
  daemons[munged]=$!
  until_true 10 test -S "$munge/socket" || die "munged did not start"
}

cluster_start() {
  export SLURM_CONF=$cluster/slurm.conf
  # The two nodes are one host: shared memory would confuse them.
  export OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=lo
  export SLURM_PMIX_FENCE=tree # as env.sh sets it
  unset OMP_NUM_THREADS
  mkdir -p "$cluster/state"
  start_munged
  write_conf "$@"
  slurmctld -D >/dev/null 2>&1 &
  daemons[slurmctld]=$!
  node_start n1
  node_start n2
  until_true 20 nodes_ready p || die "the nodes do not come up: $(sinfo -N 2>&1)"
}

job_state() {
  scontrol show job "$1" 2>/dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p'
}

job_wait() { # ID SECONDS STATE...
  local id=$1 end=$((SECONDS + $2)) state
  shift 2
  while state=$(job_state "$id") && [[ " $* " != *" $state "* ]]; do
    ((SECONDS < end)) || die "job $id is $state, not $*"
    sleep 0.1
  done
}
