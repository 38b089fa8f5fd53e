# signals to everybody, then to the first process by name: a sandbox whose supervisor dies of them has lost
import signal
def sig(pid, number):
    try: os.kill(pid, number); return False, "sent"
    except OSError as e: return False, str(e)
for name in ["SIGINT","SIGTERM","SIGHUP","SIGCHLD","SIGUSR1","SIGSTOP","SIGKILL"]:
    tryit("signal 1 "+name, lambda name=name: sig(1, getattr(signal, name)))
p=os.fork()
if p==0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60); os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
tryit("kill everybody", lambda: sig(-1, signal.SIGTERM))
