#!/usr/bin/env bash
# share_of_core.sh GROUP PERCENT COMMAND...: as a rank of mpirun, joins a control group of its own below GROUP that may use so
# much of a core, and becomes COMMAND. Ranks that outnumber the cores run like as many slower machines.
set -euo pipefail
group=$1/rank-$OMPI_COMM_WORLD_RANK
mkdir -p "$group"
period=10000 # microseconds
if [[ -e $group/cpu.max ]]; then
  echo "$(($2 * period / 100)) $period" >"$group/cpu.max"
else
  echo "$period" >"$group/cpu.cfs_period_us"
  echo $(($2 * period / 100)) >"$group/cpu.cfs_quota_us"
fi
echo $$ >"$group/cgroup.procs"
exec "${@:3}"
