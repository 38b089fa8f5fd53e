# what an earlier run of the same sandbox may have left, and what this one leaves for the next
import ctypes, socket
l=ctypes.CDLL(None,use_errno=True)
for d in ["/tmp","/work","/dev/shm","/var/tmp"]:
    tryit("files in "+d, lambda d=d: (any(n.startswith("left-") for n in os.listdir(d)), os.listdir(d)[:5]))
    try: open(d+"/left-behind","w").write("x")
    except OSError: pass
tryit("System V shared memory", lambda: (l.shmget(4711,4096,0)>=0, "found"))
l.shmget(4711,4096,0o1666)
def queue():
    q=l.mq_open(b"/left", os.O_RDWR)
    return q>=0, q
tryit("message queue", queue)
l.mq_open(b"/left", os.O_RDWR|os.O_CREAT, 0o666, None)
def key():
    r=l.syscall(250 if os.uname().machine=="x86_64" else 219, 10, -3, b"user", b"left", 0)
    return r>=0, r
tryit("key in the session's keyring", key)
