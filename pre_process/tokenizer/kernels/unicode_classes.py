"""Which characters are letters, numbers, white space: a frozen table of every code point.

Two tokenizers give the same ids only if they agree on this, and the tables of Python, of the `regex` package and of the
field's tools come from different versions of Unicode: the tools know 141,028 letters, Python 3.11 lacks 9,272 of them.
So the classes stand here, as Hugging Face's tokenizers 0.23 and tiktoken 0.14 have them (they agree on each character).

The table says for each code point its general category, as far as a tokenizer's pattern asks for it: runs of equal
category, each run the number 16 · length + category in seven bits a byte, the lowest first; compressed by zlib, written
in base 85. tests/pre_process/freeze_unicode.py makes it from the two libraries.
"""

import base64
import functools
import zlib

import numpy as np

N_CODE_POINTS = 0x110000
CATEGORIES = ("", "Lu", "Lt", "Ll", "Lm", "Lo", "M", "N", "White_Space")

# The classes that the patterns of GPT-2 and GPT-4 tell apart. OTHER and what is smaller may follow a space in a piece.
LETTER, NUMBER, OTHER, WHITE, NEWLINE, SPACE = range(6)
_CLASSES = np.array([OTHER, LETTER, LETTER, LETTER, LETTER, LETTER, OTHER, NUMBER, WHITE], np.uint8)

_FROZEN = (
    "c-p;JL2Mhx6~&*KT~Uthe1<zCApwdJB(9S~fE5(dK+wYq4(VJ{tl@|*dSdHHzA|u3U)L3u27<QOz@ZHEM8ly3^hCp5DTe}O<5EU%1Y*iP_&_6F8@"
    "(||C?DHDl%3WE5+e>$d~#=J_V52Qf9AjcHin<K*z5?lpmvQ{uk#knw)kuevUUt}-i*ZK_$9;l*Ez03HuqdI|BU`KWX@cd<|cQG^ULN+y}2jP<|pI"
    "keqLsmO4*lkkAKf{IzLfb%w?Zf&eJT&?DCWT=NWmEf5QB~!VuoAIq1Z!anw9<Fq_lP5@xGeT*NHS<vwEg5!@8n`NgGgF@8FmL$jtE_PYJ-xnTYI)"
    "-d-2_T~Ev-WS@bUa>;hvrwT+qC!ZxU+VL12qNLMVUKNrpI6CYly$wf;9@zy1qCfbCRNI}xo*C&4RT25wJA1W!FROMDJwf0;1r!oi#2)CPskR>)et"
    "tIX*ms!8zQxfa+Aq=8(h5w=!~I=5$HU<ix*IOC9TMxtBW!O<>#?r)bjeAmZ)?QSN+GDc_Uh3#V1`))k-L9Ti_N{hYU6W3;0-Vg$y<Ti&)fh1bJhQ"
    "l4=eA+wFnY#BHtk#3{;iEl?6yy#kiJJW9-ad9UF0z^`~kENfX+L%0ils6@u!m|?_>88Th2xk$0n6L%q8L}}a|D7E3h+ksk@mND^`S6wJiCf>B%gQ"
    "qemsEah09fqsaZ!?dgNh(rb@RYwsJJ*2f7HGE*k*)IeVAY|OZox>H*{&dIOLC|38zA)xI#{QNx)cgIVs7;|BLgJ9OEc>Uf0v=VvJJQ^Vo>o^V(l`"
    "y1=ZDZsVIy2dZ9dkU65)E%KE;*Y>?GAEp(QeuVG2k&e64LnTz<QKL%`0QJZ9RF^1bTeHOC&hxA#m_l|C|*)|W7Y43OhwKglqkg#G0+RW|3z=VO?p"
    "4||h<4Z*WqJ_q+h~&ST2xnl|R@}BwGDtHm7<1eOe-~PG8dI)UI?%KHHm~kLUyNDBAK06Kdt9rDnLaon?DN>JjI9k8foCjlKo^QB-vc`3J?jDWdSa"
    "J_WY8-Zqwnb}1iQfvOD~2rjXhRUt14fV!7c0Ssn5Z=F7Aj%=EqLl=aMV%e{gXL&gx(4b!ykYxhI63h#C0;XyDiI<bN9HmtUf~wq#oGgq~ma*Wpxf"
    "(ESwp{MBG~WX*<b#?j{jhxY9bbnFcgv#g)hRDKo-mAzBd0}snc;9tt=`MDr_!q4FjA@!NzFK$l_rysK6&mQvbZ{gAezZV~4>#{-FvkQwqe)Q+7rY"
    "UA~G0f;M1m=RAj;3nP2-KLxZ~>o|h8S5+_~xwd$eEa5g*ALvA9tjm9wKyFpmcr#-;hCKVfuo1vIUU{ZOSUK1w(!r@DZ5Xk)Za~=u<n)3_f$5@$aC"
    "MiLCc@Z_c3<BslG|@3#n9MoJ*(yHpn3G(-5?7axOu>dDd%i=T7AcK%Zzor!t*ZI(}wJUy~Jd7a)ulE;I6_6FHl$X!qcRZ<2blt*aav%BE7?M-HYq"
    "`JvgJpz3KjUI1+9<x0{g#q`<W5S0am_xauoF=KR5N1E1vQkjdq^wmV=Fq#vwyg*{-4$0V8S=cN6R2pp;I?2@lN{_mq3Byzz^SeuN(908<o({)hq^"
    "Fke$(!@GU@BOePk%kcj0s(6_pQy#}!kKNP0(Nk-XkwQAVeBXi;ry5XRC!vw~ynuqSMifEAp9wJ_%1#I-JTL=UjdF=1q83_69DNM7v1U8@UMr($+2"
    "KB`(s%Wc|pRCl-^iIXw(*h~a7K`JT%0WDPxsvT!q)+KA*N~g`t|04WbG)mOM1oH;qmw@l%9Nq-{3h+G6duDv>#*k8!BMA9>_=$xdLqD@hHNIz2m6"
    "a50eVNv;FOGQ#S0S{`EQ2#CJ4diS%tTZEvHWGGA6isb-Jo2eaxvh#=&P$RVgr7RddEXy>Kb?bGa*au7WpHa2@5V$jTy0v;i2aA$i89s;ig?X*Ar!"
    "f^;8{7j=ayj3OZk~)+>)Vwk>qMe8>tTyFB1qK)fVn+i<eOsc5yV0lU~`CXtH+dmlRRkgL2aV<-=-ZK$a}G&%8-YOyCCn9}S^mkcCAY0@c1_5&#SW"
    "pv3bO8+)9^$(kT7pf|+hEtO=N}EGPyf(IWAs|cTr+Evy2fW3wkzmEub+2OfnmB^QRG{1d;!O(6SfMl6rv&9x3|WaR`KmDFk-f`^ESR+qov~Hd8x+"
    "8j+Y*tz!93Y9<07&4z_2T#3|*dZy$}9v@GrzOJ!>EOhcAhBvBSEwnZ$S~=6NC>Yjlpw<dKRvS;)|%v8d}htx|Qk+=R%gONuzLPPq-K)gWI)8K+0H"
    "O<_KPs>E^zCL0<+r0p&@hwTAF%CTv)>Qt<GhPKwFn(W%D@hK`aQZe%!x{2Wvly#ITZ9yUFla}fqGPYR9YM&n-esm;ez1i;HSo81*q6UOat?m<nNW"
    "S91`0e<vo$^h}p5fo2d9p_Qg1n5U&6Q?C5svJ73~!mm;YA#<AYozgjmTOcE-{=n0eQsYBgwR{<i1@i-+?f*fDUm}cL>qHC^^#KLu|ESbT9K3et-*"
    "@EQ~<*IdR4zlqh!=yDgR+2?pRbi5-FG#vdAt_a9h#pAAn`ytNPrlj=iW?!Hv)yhuAk1gm@GDj(rBew|<A=kYo-cl4E`vwBW1<0Uvj5O|(a(TvaGv"
    "c6<;b8?HPsGOSngO~sJe~asnI9}m+_PZMTxZ1Kqf8X{uZQ9!*{a6L}A^Z@ogS^G6XZtVLaf9i)*{R?kQ?XFt(ShaFKhP#M;#X6yXj`l@E%nWWJEn"
    "a(<u38i{!cGZDj1}~!K}Ut_1L;5u8X?kQ@#7u&J=wfpX^TGwWtKPW=oiG(lt3isX(6wD67(!rX{2}c<@9_uY|^UX~LGV$$|pqRg-n!z6+gu<`9Gs"
    "-Fqz*?aQK?zM|WGYY5HFsS%{_wEoD_6Rkf%@=p;&zY*adcC5xv!q5H;{|5Qig8~"
)


@functools.cache
def categories() -> np.ndarray:
    """(N_CODE_POINTS,) uint8: the index into CATEGORIES of each code point."""
    runs = np.array(_numbers(zlib.decompress(base64.b85decode(_FROZEN))))
    return np.repeat((runs % 16).astype(np.uint8), runs // 16)


@functools.cache
def classes() -> np.ndarray:
    """(N_CODE_POINTS,) uint8: LETTER, NUMBER … SPACE for each code point; NEWLINE is a line feed or carriage return."""
    table: np.ndarray = _CLASSES[categories()]
    table[[ord("\n"), ord("\r")]] = NEWLINE
    table[ord(" ")] = SPACE
    return table


def _numbers(data: bytes) -> list[int]:
    """Numbers of any length, seven bits a byte, the lowest first; the eighth bit says that more bytes follow."""
    numbers, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number, shift = 0, 0
    return numbers
