# system calls that have let programs out of sandboxes before; a breach is one that the kernel begins to serve
import ctypes, socket, struct
l=ctypes.CDLL(None,use_errno=True); l.syscall.restype=ctypes.c_long
N={"x86_64":dict(unshare=272,setns=308,mount=165,umount2=166,pivot_root=155,chroot=161,ptrace=101,process_vm_readv=310,process_vm_writev=311,bpf=321,perf_event_open=298,io_uring_setup=425,userfaultfd=323,keyctl=250,add_key=248,request_key=249,personality=135,kexec_load=246,init_module=175,finit_module=313,open_by_handle_at=304,name_to_handle_at=303,clone3=435,pidfd_getfd=438,fsopen=430,open_tree=428,move_mount=429,mount_setattr=442,quotactl=179,swapon=167,reboot=169,sethostname=170,acct=163,settimeofday=164,iopl=172,kcmp=312,vmsplice=278,migrate_pages=256,move_pages=279,landlock_create_ruleset=444)}.get(os.uname().machine,{})
def refused(name,*args):
    ctypes.set_errno(0); r=l.syscall(N[name],*args); e=ctypes.get_errno()
    return not (r==-1 and e in (1,38,13)), f"{r} {errno.errorcode.get(e)}"
buf=ctypes.create_string_buffer(4096)
for name,args in dict(unshare=(0x10000000,),mount=(b"none",b"/tmp",b"tmpfs",0,None),umount2=(b"/proc",2),pivot_root=(b"/",b"/tmp"),chroot=(b"/tmp",),ptrace=(0,0,0,0),process_vm_readv=(os.getpid(),buf,1,buf,1,0),process_vm_writev=(os.getpid(),buf,1,buf,1,0),bpf=(0,buf,72),perf_event_open=(buf,0,-1,-1,0),io_uring_setup=(4,buf),userfaultfd=(0,),keyctl=(0,-3,0,0,0),add_key=(b"user",b"k",b"v",1,-3),request_key=(b"user",b"k",None,-3),kexec_load=(0,0,None,0),init_module=(buf,0,b""),finit_module=(0,b"",0),open_by_handle_at=(-100,buf,0),name_to_handle_at=(-100,b"/",buf,buf,0),pidfd_getfd=(0,0,0),fsopen=(b"tmpfs",0),open_tree=(-100,b"/",1),move_mount=(-100,b"/",-100,b"/tmp",0),mount_setattr=(-100,b"/",0,buf,32),quotactl=(0,None,0,None),swapon=(b"/x",0),reboot=(0,0,0,None),sethostname=(b"x",1),acct=(None,),settimeofday=(None,None),iopl=(3,),kcmp=(os.getpid(),os.getpid(),1,0,0),vmsplice=(1,buf,0,0),migrate_pages=(0,0,buf,buf),move_pages=(0,0,buf,buf,buf,0),landlock_create_ruleset=(None,0,0),personality=(0x0040000,)).items():
    if name in N: tryit(name, lambda name=name,args=args: refused(name,*args))
def cloned(flags):
    r=l.syscall(56,flags|17,None,None,None,None)
    if r==0: os._exit(0)
    return r>0, r
for name,flag in dict(user=0x10000000,mounts=0x20000,pids=0x20000000,net=0x40000000,ipc=0x8000000,uts=0x4000000,cgroup=0x2000000).items():
    tryit("clone new "+name, lambda flag=flag: cloned(flag))
tryit("clone3", lambda: refused("clone3",buf,88))
for family in (16,17,38,40,44,29,30): tryit(f"socket family {family}", lambda family=family: (bool(socket.socket(family,socket.SOCK_DGRAM)),"made"))
def entered(kind):
    ctypes.set_errno(0); fd=os.open("/proc/1/ns/"+kind,os.O_RDONLY); return l.setns(fd,0)==0, "entered"
for kind in ("user","mnt","pid","net"): tryit("setns into 1's "+kind, lambda kind=kind: entered(kind))
def again(kind):
    fd=os.open("/proc/self/ns/"+kind,os.O_RDONLY); r=l.setns(fd,0); return r==0, r
for kind in ("user","mnt","pid"): tryit("setns into own "+kind, lambda kind=kind: again(kind))
tryit("capabilities", lambda: (any(int(x.split()[1],16) for x in open("/proc/self/status") if x.startswith(("CapEff","CapPrm","CapInh","CapAmb"))),""))
tryit("no_new_privs and seccomp", lambda: (not ("NoNewPrivs:\t1" in open("/proc/self/status").read() and "Seccomp:\t2" in open("/proc/self/status").read()),""))
