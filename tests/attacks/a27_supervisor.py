# the first process of the sandbox, which does not run this code: its memory, files, limits and priority
import ctypes, resource
for what in ("mem","environ","maps","fd","fd/0","root/etc","cwd","ns/mnt","syscall"):
    def f(what=what):
        p="/proc/1/"+what
        # Names of descriptors may be seen; what they lead to must not.
        if os.path.isdir(p): return bool([os.readlink(p+"/"+n) for n in os.listdir(p)]), "listed"
        with open(p,"rb") as file: return bool(file.read(1)) or what=="mem", "read"
    tryit("/proc/1/"+what, f)
def limit():
    before=resource.prlimit(1,resource.RLIMIT_NOFILE); resource.prlimit(1,resource.RLIMIT_NOFILE,(0,before[1])); return True,before
tryit("prlimit of 1", limit)
tryit("affinity of 1", lambda: (os.sched_setaffinity(1,[0]) is None,"set"))
tryit("priority of 1", lambda: (os.setpriority(os.PRIO_PROCESS,1,19) is None,"set"))
tryit("scheduler of 1", lambda: (os.sched_setscheduler(1,os.SCHED_IDLE,os.sched_param(0)) is None,"set"))
