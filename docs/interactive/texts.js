/** The texts of the page: English, as the page and its scripts have it, then Japanese and Chinese. JSON after the "=". */

globalThis.CHORDS ??= {};

CHORDS.TEXTS = {
  "Fewer model calls in a row: try it": ["直列のモデル呼び出しを減らす：試してみる", "减少串行的模型调用：试一试"],
  "Go to the figures": ["図へ移動", "跳到图表"],
  "Move a control and see which core calls the model when, how many calls wait for one another, and how far the result is from KSampler's. This page computes all of it, with the methods of <a href=\"../how-it-works.md\">How it works</a>.": [
    "設定を動かすと、どのコアがいつモデルを呼び出すか、順番を待つ呼び出しが何回あるか、結果がKサンプラーとどれだけ違うかがわかります。すべてこのページの中で計算します。方式は<a href=\"../how-it-works.md\">しくみ（英語）</a>で説明しています。",
    "移动控件，就能看到哪个核心在何时调用模型、有多少次调用需要依次等待，以及结果与K采样器相差多少。全部计算都在本页完成，方法见<a href=\"../how-it-works.md\">工作原理（英文）</a>。"
  ],
  "Language": ["言語", "语言"],
  "Dark": ["ダーク", "深色"],
  "Light": ["ライト", "浅色"],
  "Controls": ["設定", "设置"],
  "Method": ["方式", "方法"],
  "CHORDS": ["CHORDS", "CHORDS"],
  "Secant window": ["割線ウィンドウ", "割线窗口"],
  "Fewer calls": ["呼び出しの省略", "减少调用"],
  "Token split": ["トークン分割", "Token拆分"],
  "Cores": ["コア数", "核心数"],
  "Fidelity": ["忠実度", "保真度"],
  "Picture": ["画像", "图像"],
  "Steps": ["ステップ", "步数"],
  "Guidance (CFG)": ["ガイダンス (CFG)", "引导 (CFG)"],
  "New noise": ["別の初期ノイズ", "换一个初始噪波"],
  "Devices": ["デバイス", "设备"],
  "Speed": ["速度", "速度"],
  "The last device takes": ["最後のデバイスの所要時間", "最后一个设备用时"],
  "Link": ["接続", "连接"],
  "Network, 100 Gb/s": ["ネットワーク 100 Gb/s", "网络 100 Gb/s"],
  "Network, 10 Gb/s": ["ネットワーク 10 Gb/s", "网络 10 Gb/s"],
  "Network, 1 Gb/s": ["ネットワーク 1 Gb/s", "网络 1 Gb/s"],
  "Model": ["モデル", "模型"],
  "Reset all": ["すべて元に戻す", "全部重置"],
  "<b>1. All methods, with these settings.</b> Calls in a row are model calls that wait for one another. The error is the relative RMS difference from KSampler's result.": [
    "<b>1. この設定での全方式の比較。</b>直列の呼び出しとは、前の呼び出しを待つモデル呼び出しです。誤差は、Kサンプラーの結果との相対RMS差です。",
    "<b>1. 当前设置下的所有方法。</b>串行调用是需要等待前一次的模型调用。误差是与K采样器结果的相对均方根差。"
  ],
  "2. Which step is called when.": ["2. どのステップをいつ呼び出すか。", "2. 哪一步在何时调用。"],
  "3. Which device makes which call when.": [
    "3. どのデバイスがどの呼び出しをいつ行うか。",
    "3. 哪个设备在何时完成哪次调用。"
  ],
  "4. How far each result is from KSampler's.": ["4. 各結果とKサンプラーの差。", "4. 每个结果与K采样器相差多少。"],
  "5. The picture so far.": ["5. ここまでの画像。", "5. 目前的图像。"],
  "Play": ["再生", "播放"],
  "Pause": ["一時停止", "暂停"],
  "Calls in a row so far": ["ここまでの直列の呼び出し", "目前的串行调用次数"],
  "What is computed, and what is assumed": ["計算しているもの、仮定しているもの", "哪些是计算的，哪些是假设的"],
  "A \"picture\" here is 32 points in the plane. The data are eight groups of points on a circle, and the prompt names every second group. For such data the exact answer of a model is known. Guidance pushes the answer for the prompt away from the answer without it. With more guidance small early errors grow, and the methods need more calls.": [
    "ここでの「画像」は平面上の32個の点です。データは円周上の8つの点群で、プロンプトは1つおきの点群を指します。このようなデータでは、モデルの正確な答えがわかっています。ガイダンスは、プロンプトありの答えをプロンプトなしの答えから遠ざけます。ガイダンスが強いほど初期の小さな誤差が大きくなり、必要な呼び出しが増えます。",
    "这里的“图像”是平面上的32个点。数据是圆周上的八组点，提示词指定其中相隔的四组。对这样的数据，模型的准确答案是已知的。引导使有提示词的答案远离没有提示词的答案。引导越强，早期的小误差放得越大，各方法需要的调用也越多。"
  ],
  "The steps are Euler's, with sigmas evenly spaced from 1 to 0. The methods follow the same rules as <code>chords_core</code>, and a test compares the calls and states of both. Your model is not this small flow: here CHORDS is worse with strong guidance, and fewer calls save less, than with the demo model of the pack (<a href=\"../how-it-works.md\">figures</a>). At 4 steps there is little to save with any model.": [
    "ステップはオイラー法で、sigmaは1から0まで等間隔です。各方式の規則は<code>chords_core</code>と同じで、両者の呼び出しと状態をテストで比べています。実際のモデルはこの小さな例とは異なります。パックのデモモデルと比べると、ここでは強いガイダンスでCHORDSの結果が悪く、呼び出しの省略の効果も小さくなります（<a href=\"../how-it-works.md\">数値、英語</a>）。4ステップでは、どのモデルでも減らせる呼び出しはほとんどありません。",
    "每一步使用欧拉法，sigma从1到0均匀分布。各方法的规则与<code>chords_core</code>相同，并由测试比较两者的调用和状态。您的模型并不是这个小例子：与本节点包的演示模型相比，这里强引导下的CHORDS较差，减少调用省下的也较少（<a href=\"../how-it-works.md\">数据，英文</a>）。只有4步时，任何模型都省不了多少。"
  ],
  "The devices are assumed. The length of a call is that of one H200 GPU, as measured, times the sides of guidance (one at CFG 1, else two), over the speed. Device 1 is where ComfyUI runs. For the others the states go over the link and back. Token split uses the measured shares of a call and an exchange over the link after them, which is the cautious case; it takes 2, 4 or 8 devices, or 1 where that is the fastest. Nobody has measured several real GPUs yet. Guidance on two GPUs, one side of a call each, is left out here: with guidance the node tries that first.": [
    "デバイスは仮定です。1回の呼び出しの時間は、H200 GPU 1台の実測値に、ガイダンスの呼び出し数（CFG 1なら1、それ以外は2）を掛け、速度で割ったものです。デバイス1はComfyUIが動くデバイスです。ほかのデバイスには、状態が接続を通って往復します。トークン分割には、分担した計算の実測値と、その後の接続での交換を使います。これは控えめな見積もりです。2、4、8台を使い、1台が最も速ければ1台です。複数の実際のGPUでは、まだ誰も測定していません。ガイダンスの2つの呼び出しを2台のGPUに分ける方法は、ここでは省いています。ガイダンスがあるとき、ノードはまずそれを試します。",
    "设备是假设的。一次调用的时长是一块H200 GPU的实测值，乘以引导的调用数（CFG为1时一次，否则两次），再除以速度。设备1是运行ComfyUI的设备；对其他设备，状态要经连接往返。Token拆分采用各份计算的实测值，并在其后经连接交换，这是保守的估计；它使用2、4或8个设备，若一个设备最快则用一个。还没有人在多块真实GPU上测量过。这里略去了把引导的两次调用分给两块GPU的方式：有引导时，节点会先尝试它。"
  ],
  "Each core starts further along the path, and a slower core corrects it. The first result comes early.": [
    "各コアは経路のより先から始め、遅いコアがそれを補正します。最初の結果が早く得られます。",
    "每个核心从路径上更靠前的位置出发，由较慢的核心校正。第一个结果来得早。"
  ],
  "A round calls the model at several steps at once. Then the whole path is solved again.": [
    "1巡ごとに複数のステップで同時にモデルを呼び出し、経路全体を解き直します。",
    "每一轮同时在多个步上调用模型，然后重新求解整条路径。"
  ],
  "One core leaves calls out where the answer hardly changes, and interpolates there. One device is enough.": [
    "1つのコアが、答えがほとんど変わらないところの呼び出しを省き、そこを補間します。デバイスは1台で足ります。",
    "单个核心在答案几乎不变的地方省去调用，改用插值。一个设备就够。"
  ],
  "Devices share each call: as many as is fastest. The calls in a row stay, but each is shorter.": [
    "最も速くなる台数のデバイスで、1回ごとの呼び出しを分担します。直列の呼び出しは減りませんが、1回が短くなります。",
    "由最快的设备数分担每次调用。串行调用次数不变，但每次更短。"
  ],
  "{speed}x, {time} a call": ["{speed}倍、1回 {time}", "{speed}倍，每次 {time}"],
  "as long": ["同じ", "相同"],
  "{times}x as long": ["{times}倍", "{times}倍"],
  "{time} s": ["{time} 秒", "{time} 秒"],
  "Calls in a row": ["直列の呼び出し", "串行调用"],
  "Error": ["誤差", "误差"],
  "Time": ["時間", "时间"],
  "rounding": ["丸めのみ", "仅舍入"],
  "exact": ["完全に一致", "完全相同"],
  "under 0.01 %": ["0.01 % 未満", "小于 0.01 %"],
  "{ratio}x as fast": ["{ratio}倍の速さ", "速度为 {ratio} 倍"],
  "no gain": ["効果なし", "没有收益"],
  "slower": ["遅くなる", "更慢"],
  "{steps} calls in a row, each shared by {members} devices": [
    "直列の呼び出し{steps}回、それぞれ{members}台で分担",
    "串行 {steps} 次调用，每次由 {members} 个设备分担"
  ],
  "{steps} calls in a row, each on one device": ["直列の呼び出し{steps}回、それぞれ1台", "串行 {steps} 次调用，每次一个设备"],
  "{calls} of {steps} calls in a row": ["直列の呼び出し{steps}回中{calls}回", "串行 {calls} 次调用（原为 {steps} 次）"],
  "the exact result": ["Kサンプラーと一致する結果", "与K采样器完全相同的结果"],
  "{error} off": ["差は{error}", "相差 {error}"],
  "the same picture apart from rounding": ["丸めを除き同じ画像", "除舍入外图像相同"],
  "{method}: <b>{calls}</b>, {off}. {time} instead of {whole}: {gain}.": [
    "{method}：<b>{calls}</b>、{off}。{whole}が{time}に：{gain}。",
    "{method}：<b>{calls}</b>，{off}。{time}，原为 {whole}：{gain}。"
  ],
  "Colours are cores: core 1 takes every step. Lines: a core starts another one, or corrects it. Faint: calls after the result that is taken (two results agree within 5 %).": [
    "色はコアです。コア1は全ステップを進みます。線：別のコアの開始または補正。薄い点：採用した結果（2つの結果の差が5 %以内）より後の呼び出し。",
    "颜色代表核心：核心1走每一步。线：一个核心启动或校正另一个核心。浅色：采纳结果（两个结果相差不超过5 %）之后的调用。"
  ],
  "A column is one round. A step that has moved too far is called again.": [
    "1列が1巡です。大きく動いたステップは、もう一度呼び出します。",
    "一列是一轮。移动过多的步会再次调用。"
  ],
  "One call at a time. Steps without a dot have an interpolated answer.": [
    "一度に1回だけ呼び出します。点のないステップの答えは補間です。",
    "一次只有一个调用。没有点的步使用插值的答案。"
  ],
  "The same calls as KSampler's, one after another.": ["Kサンプラーと同じ呼び出しを順に行います。", "与K采样器相同的调用，依次进行。"],
  "{text} Rings: KSampler.": ["{text}輪：Kサンプラー。", "{text}圆圈：K采样器。"],
  "Device {number}": ["デバイス{number}", "设备 {number}"],
  "result": ["結果", "结果"],
  "Coloured: a device computes its share. Grey: keys and values come over the link.": [
    "色付き：デバイスが自分の担当分を計算。灰色：keyとvalueが接続を通って届く。",
    "彩色：设备计算自己的一份。灰色：键和值经连接传来。"
  ],
  "Sharing calls is not faster here, so one device makes them whole. Try NVLink, or the video.": [
    "ここでは分担しても速くならないので、1台が呼び出しをまるごと行います。NVLinkか動画を試してください。",
    "这里分担并不更快，所以由一个设备完成整个调用。可试试NVLink或视频。"
  ],
  "A number is a step. The time of a call includes the link, there and back. Colours as above.": [
    "数字はステップです。呼び出しの時間は、接続の往復を含みます。色は上の図と同じです。",
    "数字是步。调用的时间包括经连接往返。颜色同上图。"
  ],
  "step {step}, core {core}: {time}": ["ステップ{step}、コア{core}：{time}", "第 {step} 步，核心 {core}：{time}"],
  "step {step}, one share of {members}": ["ステップ{step}、{members}分の1の担当", "第 {step} 步，{members} 份中的一份"],
  "step {step}, the whole call": ["ステップ{step}、呼び出し全体", "第 {step} 步，整个调用"],
  "exchange": ["交換", "交换"],
  "The scale is logarithmic. A large dot is the result that is taken; smaller errors than 0.01 % are at the bottom. KSampler's line is what the model expects on the way.": [
    "対数目盛りです。大きな点は採用した結果です。0.01 %より小さい誤差は一番下に置きます。Kサンプラーの線は、途中でモデルが予測する結果です。",
    "对数刻度。大点是采纳的结果；小于 0.01 % 的误差画在最下方。K采样器的线是途中模型预测的结果。"
  ],
  "the state after {count} steps": ["{count}ステップ後の状態", "{count} 步后的状态"],
  "the result after {count} calls in a row, {error}": ["直列の呼び出し{count}回後の結果（{error}）", "串行 {count} 次调用后的结果（{error}）"],
  "the noise, as there is no result yet": ["まだ結果がないので初期ノイズ", "尚无结果，显示初始噪波"],
  "Dots: {state}. Rings: KSampler's result; grey lines: its way there. Dashed circles: the groups that the prompt names.": [
    "点：{state}。輪：Kサンプラーの結果、灰色の線：そこまでの経路。破線の円：プロンプトが指す点群。",
    "点：{state}。圆圈：K采样器的结果；灰线：它的路径。虚线圆：提示词指定的组。"
  ],
  "{calls} calls at {steps} steps, in {rounds} rounds": [
    "{steps}ステップで呼び出し{calls}回、{rounds}巡",
    "{steps} 步，{calls} 次调用，共 {rounds} 轮"
  ],
  "calls in a row": ["直列の呼び出し（回）", "串行调用次数"],
  "step": ["ステップ", "步"],
  "core {core}, step {step}, call {call} in a row": [
    "コア{core}、ステップ{step}、直列の呼び出し{call}回目",
    "核心 {core}，第 {step} 步，串行第 {call} 次调用"
  ],
  "{name}: {count} calls": ["{name}：呼び出し{count}回", "{name}：{count} 次调用"],
  "seconds": ["秒", "秒"],
  "{name}: {count} results": ["{name}：結果{count}個", "{name}：{count} 个结果"],
  "fidelity: {percent} %": ["忠実度：{percent} %", "保真度：{percent} %"],
  "{name}: {error} after {count} calls in a row": [
    "{name}：直列の呼び出し{count}回で{error}",
    "{name}：串行 {count} 次调用后 {error}"
  ],
  "The points of the picture, each with a line to where KSampler has it": [
    "画像の点と、Kサンプラーでの位置への線",
    "图像的各点，以及到K采样器中对应位置的线"
  ]
};
